"""Make a data set in the course's layout of a video and the keypoints of the person in it.

    python scripts/import_video.py dance.mp4 --keypoints openpose_folder --out DR
    python Trainer.py --DR DR --save_root runs/mine

The film's cuts, and frames without the person, become jumps in the numbering. Training comes from the film's
beginning, validation and test from its end.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from modules.pose.film import FOLDER_RATE, Film, choose_frames, open_film, pictures
from modules.pose.keypoints import FEWEST, follow, read_keypoints, write_coco
from modules.pose.output import check_out, new_dataset
from modules.pose.skeleton import draw_poses, lines_for
from modules.progress import followed
from modules.runtime import InputError, run_program

PROGRAM = "import_video"
JUMP = 100  # in the numbering at a cut
THUMBNAIL = (64, 36)  # pixels, for the differences of neighbouring frames
AROUND, TIMES, LEAST = 5, 3, 1.5  # a cut: so many times the differences of the frames around it, and levels of 255


class Framing(NamedTuple):
    """How a film's picture goes into a frame."""

    box: tuple[float, float, float, float]  # left, top, right, bottom of what is taken, pixels of the film
    place: tuple[int, int, int, int]  # left, top, width, height in the frame, pixels of the frame
    size: tuple[int, int]  # of the frame: width, height
    words: str

    def picture(self, picture: Image.Image) -> Image.Image:
        """The frame, resized as everywhere with PIL's antialiased bilinear filter."""
        left, top, width, height = self.place
        frame = Image.new("RGB", self.size)
        frame.paste(picture.resize((width, height), Image.Resampling.BILINEAR, box=self.box), (left, top))
        return frame

    def joints(self, joints: np.ndarray) -> np.ndarray:
        """(T, J, 3) of the film's pixels in the frame's."""
        left, top, right, bottom = self.box
        x, y, width, height = self.place
        scale = width / (right - left), height / (bottom - top)
        moved = joints.copy()
        moved[..., 0] = x + scale[0] * (joints[..., 0] - left)
        moved[..., 1] = y + scale[1] * (joints[..., 1] - top)
        moved[joints[..., 2] == 0] = 0
        return moved


def find_framing(film: Film, height: int, width: int, fit: str) -> Framing:
    """Crop to the frame's aspect around the middle, or fit all of it in between black bars."""
    size, whole = (width, height), f"{film.width}x{film.height}"
    if fit == "letterbox":
        scale = min(width / film.width, height / film.height)
        inside = max(1, round(film.width * scale)), max(1, round(film.height * scale))
        place = ((width - inside[0]) // 2, (height - inside[1]) // 2, *inside)
        return Framing((0, 0, film.width, film.height), place, size,
                       f"the whole {whole} in {inside[0]}x{inside[1]} of {width}x{height}, the rest black")
    scale = max(width / film.width, height / film.height)
    inside = width / scale, height / scale
    left, top = (film.width - inside[0]) / 2, (film.height - inside[1]) / 2
    return Framing((left, top, left + inside[0], top + inside[1]), (0, 0, width, height), size,
                   f"the middle {inside[0]:.0f}x{inside[1]:.0f} of {whole} as {width}x{height} "
                   "(--fit letterbox takes all)")


def find_cuts(thumbnails: np.ndarray) -> list[int]:
    """Frames behind a cut: thumbnails (T, h, w) float of 0..255. A difference to the frame before that stands out from
    those of the frames around it."""
    change = np.abs(np.diff(thumbnails, axis=0)).mean(axis=(1, 2))  # (T-1): from frame t to t + 1
    padded = np.pad(change, AROUND, constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * AROUND + 1).copy()
    windows[:, AROUND] = -1
    return (np.flatnonzero((change > TIMES * windows.max(axis=1)) & (change > LEAST)) + 1).tolist()


def find_stretches(present: np.ndarray, cuts: list[int]) -> list[tuple[int, int]]:
    """Runs [begin, end) of frames with the person and without a cut."""
    edges = sorted({0, len(present), *cuts, *(np.flatnonzero(np.diff(present.astype(int))) + 1).tolist()})
    return [(begin, end) for begin, end in zip(edges, edges[1:], strict=False) if present[begin]]


def split(
    stretches: list[tuple[int, int]], val_share: float, test_share: float, gap: int
) -> tuple[dict[str, list[tuple[int, int]]], int]:
    """Whole stretches for train, val and test, in this order of time, and how many frames are left out.

    A border lies at a cut if one is near (half of the smaller share); else a stretch is cut in two, and `gap` frames
    are left out there, for neighbours look alike.
    """
    total = sum(end - begin for begin, end in stretches)
    behind = np.cumsum([end - begin for begin, end in stretches])[:-1]  # frames before each cut
    parts: dict[str, list[tuple[int, int]]] = {"train": [], "val": [], "test": []}
    borders = []
    for share in (val_share + test_share, test_share):
        border, reach = total * (1 - share), total * min(val_share, test_share) / 2
        nearest = min(behind, key=lambda cut: abs(cut - border), default=-math.inf)
        borders.append((int(nearest), 0) if abs(nearest - border) < reach else (round(border), gap))
    (val_begin, val_gap), (test_begin, test_gap) = borders
    for part, first, last in (("train", 0, val_begin), ("val", val_begin + val_gap, test_begin),
                              ("test", test_begin + test_gap, total)):
        done = 0
        for begin, end in stretches:
            piece = begin + max(0, first - done), begin + min(end - begin, last - done)
            done += end - begin
            if piece[1] - piece[0] >= 2:
                parts[part].append(piece)
    return parts, total - sum(end - begin for part in parts.values() for begin, end in part)


def get_keypoints(args: argparse.Namespace, film: Film, used: int) -> list[np.ndarray]:
    """The people of every frame of the film, from the file or, with --estimate, from torchvision's network."""
    path = args.keypoints
    if not args.estimate or (path and path.exists()):
        return read_keypoints(path, len(film.times), used)
    path = path or Path(f"{args.out.resolve()}.keypoints.json")
    if path.exists():
        print(f"{path}: keypoints estimated before")
        return read_keypoints(path, len(film.times))
    from modules.pose.estimate import estimate, load_detector  # torchvision takes seconds

    found = estimate(load_detector(args.weights), pictures(film))
    people = list(followed(found, "estimating", len(film.times), "frame"))
    write_coco(path, [f"frame{t:06d}" for t in range(len(people))], people, film.height, film.width)
    print(f"{path}: keypoints of {len(people)} frames, estimated; the next time they are read from there")
    return people


def check_people(people: list[np.ndarray], film: Film, min_confidence: float, source: str) -> None:
    """InputError where there is nobody, or where the keypoints are of another picture than the film's."""
    joints = [one[one[:, 2] >= min_confidence] for some in people for one in some]
    joints = np.concatenate([one for one in joints if len(one) >= FEWEST] or [np.zeros((0, 3))])
    if not len(joints):
        raise InputError(f"{source}: no person at all in it, with {FEWEST} joints or more of --min_confidence "
                         f"{min_confidence}")
    if joints[:, :2].max() <= 2:
        raise InputError(f"{source}: coordinates from 0 to 1; expected pixels (OpenPose: --keypoint_scale 0)")
    outside = ((joints[:, :2] < 0) | (joints[:, :2] > (film.width, film.height))).any(axis=1).mean()
    if outside > 0.5:
        raise InputError(f"{source}: {outside:.0%} of the joints lie outside of the film's {film.width}x{film.height}; "
                         "expected keypoints of this film at this size, turned as it is shown")


def write_frames(folder: Path, film: Film, chosen: np.ndarray, framing: Framing) -> np.ndarray:
    """Write the chosen frames as folder/<k>.png and return their thumbnails (T, h, w), grey."""
    folder.mkdir()
    thumbnails = np.empty((len(chosen), *THUMBNAIL[::-1]), np.float32)
    wanted: dict[int, list[int]] = {}
    for k, t in enumerate(chosen.tolist()):
        wanted.setdefault(t, []).append(k)
    for t, picture in enumerate(followed(pictures(film), "reading", len(film.times), "frame")):
        for k in wanted.get(t, ()):
            framing.picture(picture).save(folder / f"{k}.png")
            thumbnails[k] = picture.convert("L").resize(THUMBNAIL, Image.Resampling.BILINEAR)
        if t >= chosen[-1]:
            break
    return thumbnails


def place_parts(new: Path, raw: Path, parts: dict, joints: np.ndarray, args: argparse.Namespace) -> None:
    """Move the frames of raw/<k>.png to their place, with poses, and the training frames' joints to keypoints.json."""
    lines = lines_for(args.frame_H, args.line_width)
    names, people = [], []
    for part, stretches in parts.items():
        number = 0
        for index, (begin, end) in enumerate(stretches):
            if part == "test":
                folders, number = [f"test/test_{kind}/{index}" for kind in ("gt", "label")], 0
            else:
                folders = [f"{part}/{part}_{kind}" for kind in ("img", "label")]
            for folder in folders:
                (new / folder).mkdir(parents=True, exist_ok=True)
            poses = draw_poses(joints[begin:end], args.min_confidence, args.frame_H, args.frame_W, lines)
            for k, pose in zip(range(begin, end), poses, strict=True):
                name = f"frame{number:06d}.png"
                (raw / f"{k}.png").rename(new / folders[0] / name)
                pose.save(new / folders[1] / name)
                if part == "train":
                    names.append(f"{folders[0]}/{name}")
                    people.append(joints[k][None])
                number += 1
            number += JUMP
            if part == "test":
                given = new / f"test/test_img/{index}"
                given.mkdir(parents=True)
                (given / "frame000000.png").write_bytes((new / folders[0] / "frame000000.png").read_bytes())
    info = {"limb": lines.limb, "least": lines.least, "min_confidence": args.min_confidence}
    write_coco(new / "keypoints.json", names, people, args.frame_H, args.frame_W, info)


def import_video(args: argparse.Namespace, new: Path) -> None:
    """Everything, into the folder `new`."""
    film = open_film(args.video)
    print(f"{film.path}: {len(film.times)} frames of {film.width}x{film.height}, "
          f"{'taken as ' if film.files else ''}{film.rate:.4g} a second, {film.times[-1] + 1 / film.rate:.1f} s")
    if args.fps and args.fps > 1.01 * film.rate:
        raise InputError(f"--fps {args.fps:g}: the film has {film.rate:.4g} frames a second; expected at most that")
    chosen = choose_frames(film, args.fps, args.start, args.end)
    if len(chosen) < 2:
        raise InputError(f"--start {args.start:g} --end {args.end}: {len(chosen)} frames lie between; the film has "
                         f"{film.times[-1]:.1f} s")
    if args.fps or film.uneven:
        print(f"{'A variable rate, made even' if film.uneven else 'Taken'}: {len(chosen)} frames, "
              f"{args.fps or film.rate:.4g} a second, {len(np.unique(chosen))} different ones")
    framing = find_framing(film, args.frame_H, args.frame_W, args.fit)
    print(f"Frames: {framing.words}")
    people = get_keypoints(args, film, int(chosen[-1]) + 1)
    check_people(people, film, args.min_confidence, str(args.keypoints or "--estimate"))

    raw = new / "raw"
    thumbnails = write_frames(raw, film, chosen, framing)
    jumps = np.searchsorted(chosen, sorted(film.cuts)).tolist()  # of a folder's numbering
    cuts = sorted({*find_cuts(thumbnails), *(cut for cut in jumps if 0 < cut < len(chosen))})
    joints = framing.joints(follow([people[t] for t in chosen], args.min_confidence, frozenset(cuts), args.person))
    present = joints[..., 2].any(axis=1)
    most = max(len(some) for some in people)
    print(f"Keypoints: at most {most} {'person' if most == 1 else 'people'} in a frame; the one who is followed is in "
          f"{present.sum()} of {len(chosen)} frames, the others are left out as cuts")
    print(f"Cuts of the film: {len(cuts)}" + (f", before frames {', '.join(map(str, chosen[cuts[:8]]))}"
                                              f"{', …' if len(cuts) > 8 else ''}" if cuts else ""))
    seen = joints[joints[..., 2] >= args.min_confidence]
    outside = ((seen[:, :2] < 0) | (seen[:, :2] > framing.size)).any(axis=1).mean() if len(seen) else 0
    if outside > 0.02:
        print(f"warning: {outside:.0%} of his joints lie outside of the frames", file=sys.stderr)
    gap = round(min(args.fps or film.rate, len(chosen) * min(args.val_share, args.test_share) / 4))
    parts, left_out = split(find_stretches(present, cuts), args.val_share, args.test_share, gap)
    for part, stretches in parts.items():
        if not stretches:
            raise InputError(f"{args.video}: {present.sum()} frames with the person, too few for {part}; expected a "
                             "longer film, or a larger --val_share or --test_share")
        lengths = [end - begin for begin, end in stretches]
        print(f"{part}: {sum(lengths)} frames in {len(lengths)} {'stretch' if len(lengths) == 1 else 'stretches'} of "
              f"{min(lengths)} to {max(lengths)}")
    print(f"Left out: {left_out} frames, between train, val and test and where a single one stands alone")
    place_parts(new, raw, parts, joints, args)
    for path in raw.iterdir():
        path.unlink()
    raw.rmdir()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.error = lambda message: parser.exit(2, f"error: {message}\n")
    add = parser.add_argument
    add("video", type=Path, metavar="VIDEO", help="what ffmpeg reads, or a folder of numbered pictures")
    add("--keypoints", type=Path, metavar="K", help="OpenPose's folder of *_keypoints.json, or a COCO keypoints JSON")
    add("--out", type=Path, required=True, metavar="DR", help="folder for train, val and test; new or empty")
    add("--estimate", action="store_true", help="find the keypoints with torchvision's Keypoint R-CNN, once, and write "
        "them to K, or to DR.keypoints.json")
    add("--weights", type=Path, metavar="FILE", help="its weights; by default torchvision downloads them")
    add("--frame_H", type=int, default=32, metavar="N", help="of the frames, pixels, a multiple of 8 (%(default)s)")
    add("--frame_W", type=int, default=64, metavar="N", help="of the frames, pixels, a multiple of 8 (%(default)s)")
    add("--fit", choices=("crop", "letterbox"), default="crop", help="where the film has another aspect: the middle of "
        "it, or all of it between black bars (%(default)s)")
    add("--fps", type=float, metavar="N", help=f"frames a second to take; by default all, a variable rate made even; a "
        f"folder counts as {FOLDER_RATE:g}")
    add("--start", type=float, default=0.0, metavar="S", help="seconds (%(default)s)")
    add("--end", type=float, metavar="S", help="seconds; by default the film's end")
    add("--person", type=int, nargs="+", default=[], metavar="I", help="whom to follow: counted from the left, from 0, "
        "in the first frame with people; by default the largest. More numbers: who he is behind each cut; by default "
        "the one nearest to where he was")
    add("--min_confidence", type=float, default=0.3, metavar="C", help="joints below are left out (%(default)s)")
    add("--line_width", type=float, metavar="PX", help="of a limb; by default 0.036 of the height, at least 1")
    add("--val_share", type=float, default=0.1, metavar="SHARE", help="of the frames, for validation (%(default)s)")
    add("--test_share", type=float, default=0.1, metavar="SHARE", help="of the frames, for the test (%(default)s)")
    add("--overwrite", action="store_true", help="replace a set that this script wrote into DR before")
    return parser.parse_args()


def check(args: argparse.Namespace) -> None:
    """InputError for flags that make no sense."""
    if not args.keypoints and not args.estimate:
        raise InputError("--keypoints is needed: a detector's files of this film, or --estimate to find them")
    if args.weights and not args.estimate:
        raise InputError("--weights has no effect without --estimate")
    for name in ("frame_H", "frame_W"):
        if getattr(args, name) < 16 or getattr(args, name) % 8:
            raise InputError(f"--{name} {getattr(args, name)}: expected a multiple of 8, at least 16")
    for name in ("val_share", "test_share"):
        if not 0 < getattr(args, name) <= 0.45:
            raise InputError(f"--{name} {getattr(args, name)}: expected a share above 0, at most 0.45")
    if not 0 <= args.min_confidence <= 1:
        raise InputError(f"--min_confidence {args.min_confidence}: expected 0 to 1")
    for name in ("fps", "line_width"):
        if getattr(args, name) is not None and not 0 < getattr(args, name) < math.inf:
            raise InputError(f"--{name} {getattr(args, name)}: expected a number above 0")
    if not 0 <= args.start < math.inf or (args.end is not None and not args.end > args.start):
        raise InputError(f"--start {args.start} --end {args.end}: expected seconds, the end behind the start")


def main() -> None:
    args = parse()
    check(args)
    check_out(args.out, PROGRAM, args.overwrite)
    with new_dataset(args.out, PROGRAM, args.overwrite, vars(args)) as new:
        import_video(args, new)
    print(f"{args.out}: written; next: python Trainer.py --DR {args.out} --save_root runs/{args.out.name} "
          f"--frame_H {args.frame_H} --frame_W {args.frame_W}")


if __name__ == "__main__":
    run_program(main)
