"""Make a data set in the course's layout of a video and the keypoints of the person in it.

    python scripts/import_video.py dance.mp4 --out DR        (find_keypoints.py finds the keypoints)
    python scripts/import_video.py dance.mp4 --keypoints openpose_folder --out DR
    python Trainer.py --DR DR --save_root runs/mine

The video's cuts, and frames without the person, become jumps in the numbering. Training comes from the video's
beginning, validation and test from its end.
"""

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
from find_keypoints import find_keypoints
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).parent.parent))

from modules.files import write_json
from modules.options import natural_float, number, positive, positive_float, unit_float
from modules.pose.keypoints import check_person, follow, read_keypoints, write_coco
from modules.pose.output import new_dataset, script_parser
from modules.pose.skeleton import LINE, PALETTES, draw_poses
from modules.pose.video import FOLDER_RATE, Video, choose_frames, open_video, read_frames
from modules.progress import Progress
from modules.runtime import InputError, run_program

JUMP = 100  # in the numbering at a cut
THUMBNAIL = (64, 36)  # pixels, for the differences of neighbouring frames
AROUND, TIMES, LEAST = 5, 3, 1.5  # a cut: so many times the differences of the frames around it, and levels of 255
Stretches = list[tuple[int, int]]  # runs of frames [begin, end)


def frame_of(image: Image.Image, size: tuple[int, int], fit: str) -> Image.Image:
    """The middle of a video's image at the aspect of size (width, height), or with "letterbox" all of it between black
    bars, resized as everywhere with PIL's antialiased bilinear filter."""
    if fit == "letterbox":
        (width, height), aspect = image.size, size[0] / size[1]
        image = ImageOps.pad(image, (max(width, round(height * aspect)), max(height, round(width / aspect))))
    return ImageOps.fit(image, size, Image.Resampling.BILINEAR)


def joints_in_frame(joints: np.ndarray, video: Video, size: tuple[int, int], fit: str) -> np.ndarray:
    """Joints (T, J, 3) in pixels of the video, as pixels of the frame that frame_of makes."""
    inside, moved = np.array([video.width, video.height]), joints.copy()
    scale = np.max(size / inside) if fit == "crop" else np.min(size / inside)
    moved[..., :2] = scale * (joints[..., :2] - inside / 2) + np.array(size) / 2
    moved[joints[..., 2] == 0] = 0
    return moved


def find_cuts(thumbnails: np.ndarray) -> list[int]:
    """The first frames after cuts: thumbnails (T, h, w) float of 0..255. At a cut the difference to the previous frame
    stands out from the differences around it."""
    change = np.abs(np.diff(thumbnails, axis=0)).mean(axis=(1, 2))  # (T-1): from frame t to t + 1
    padded = np.pad(change, AROUND, constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * AROUND + 1).copy()
    windows[:, AROUND] = -1
    return (np.flatnonzero((change > TIMES * windows.max(axis=1)) & (change > LEAST)) + 1).tolist()


def find_stretches(present: np.ndarray, cuts: list[int]) -> Stretches:
    """Runs of frames with the person and without a cut."""
    edges = sorted({0, len(present), *cuts, *(np.flatnonzero(np.diff(present.astype(int))) + 1).tolist()})
    return [(begin, end) for begin, end in zip(edges, edges[1:], strict=False) if present[begin]]


def split(stretches: Stretches, val_share: float, test_share: float, gap: int) -> dict[str, Stretches]:
    """Stretches for train, val and test, in this order of time.

    At a border a stretch is cut in two and `gap` frames are left out, since neighbours look alike. A frame that stands
    alone is left out.
    """
    frames, parts = [t for begin, end in stretches for t in range(begin, end)], {}
    val, test = (round(len(frames) * (1 - share)) for share in (val_share + test_share, test_share))
    for part, first, last in (("train", 0, val), ("val", val + gap, test), ("test", test + gap, len(frames))):
        taken = frames[first:last]
        pieces = [(max(begin, taken[0]), min(end, taken[-1] + 1)) for begin, end in stretches if taken]
        parts[part] = [(begin, end) for begin, end in pieces if end - begin >= 2]
    return parts


def write_frames(folder: Path, video: Video, chosen: np.ndarray, size: tuple[int, int], fit: str) -> np.ndarray:
    """Write the chosen frames as folder/<k>.png and return their thumbnails (T, h, w), grey."""
    folder.mkdir()
    thumbnails = np.empty((len(chosen), *THUMBNAIL[::-1]), np.float32)
    with Progress("reading", int(chosen[-1]) + 1, "frame") as bar:
        for t, image in enumerate(read_frames(video)):
            for k in range(*np.searchsorted(chosen, (t, t + 1))):
                frame_of(image, size, fit).save(folder / f"{k}.png")
                thumbnails[k] = image.convert("L").resize(THUMBNAIL, Image.Resampling.BILINEAR)
            bar.update()
            if t >= chosen[-1]:
                break
    return thumbnails


def place_parts(new: Path, raw: Path, parts: dict, joints: np.ndarray, args: argparse.Namespace) -> None:
    """Move the frames of raw/<k>.png to their place, with poses, and the training frames' joints to keypoints.json."""
    names, people, widths = [], [], None if args.palette == "course" else (max(LINE * args.frame_H, 1), 1)
    for part, stretches in parts.items():
        number = 0
        for index, (begin, end) in enumerate(stretches):
            below = f"test/test_{{}}/{index}" if part == "test" else f"{part}/{part}_{{}}"
            images, poses = (below.format(kind) for kind in ("gt" if part == "test" else "img", "label"))
            for folder in (images, poses):
                (new / folder).mkdir(parents=True, exist_ok=True)
            drawn = draw_poses(joints[begin:end], args.min_confidence, args.frame_H, args.frame_W, widths)
            for k, pose in enumerate(drawn, begin):
                name = f"frame{number + k - begin:06d}.png"
                (raw / f"{k}.png").rename(new / images / name)
                pose.save(new / poses / name)
                if part == "train":
                    names.append(f"{images}/{name}")
                    people.append(joints[k][None])
            number += 0 if part == "test" else end - begin + JUMP
    info = {"widths": widths, "min_confidence": args.min_confidence}
    write_coco(new / "keypoints.json", names, people, args.frame_H, args.frame_W, info)


def import_video(args: argparse.Namespace, new: Path) -> None:
    """Write the data set into the folder `new`, saying what was found."""
    if any(side % 8 or side < 16 for side in (args.frame_H, args.frame_W)):
        raise InputError(f"--frame_H {args.frame_H} --frame_W {args.frame_W}: expected multiples of 8, at least 16")
    video = open_video(args.video)
    print(f"{video.path}: {len(video.times)} frames of {video.width}x{video.height}, "
          f"{'taken as ' if video.files else ''}{video.rate:.4g} a second, {video.times[-1] + 1 / video.rate:.1f} s")
    rate = args.fps or video.rate
    if rate > 1.01 * video.rate:
        raise InputError(f"--fps {rate:g}: expected at most the video's {video.rate:.4g} frames a second")
    chosen = choose_frames(video, args.fps, args.start, args.end)
    if len(chosen) < 2:
        raise InputError(f"--start {args.start:g} --end {args.end}: {len(chosen)} frames lie between; the video has "
                         f"{video.times[-1]:.1f} s")
    print(f"Taken: {len(chosen)} frames, {rate:.4g} a second" + ", made even from a variable rate" * video.uneven)
    size = args.frame_W, args.frame_H
    part = "whole image" if args.fit == "letterbox" else "middle of the image (--fit letterbox takes the whole one)"
    print(f"Frames: {args.frame_W}x{args.frame_H}, the {part}")
    if args.keypoints is None:
        find_keypoints(video, new / "detected.json")
    source = args.keypoints or args.out / "detected.json"
    people = read_keypoints(args.keypoints or new / source.name)._replace(path=source).matched(video)

    raw = new / "raw"
    thumbnails = write_frames(raw, video, chosen, size, args.fit)
    cuts = find_cuts(thumbnails)
    joints = follow([people[t] for t in chosen], args.min_confidence, cuts, args.person, chosen)
    joints = joints_in_frame(joints, video, size, args.fit)
    check_person(joints, size, args.min_confidence, source)
    present = joints[..., 2].any(axis=1)
    print(f"Keypoints: at most {max(map(len, people))} in a frame; the followed person is in {present.sum()} of "
          f"{len(chosen)} frames, the others are left out as cuts")
    print(f"Cuts of the video: {len(cuts)}" + f", before frames {', '.join(map(str, chosen[cuts]))}" * bool(cuts))
    gap = round(min(rate, len(chosen) * min(args.val_share, args.test_share) / 4))
    parts = split(find_stretches(present, cuts), args.val_share, args.test_share, gap)
    for part, stretches in parts.items():
        lengths = [end - begin for begin, end in stretches]
        if not lengths:
            raise InputError(f"{args.video}: {present.sum()} frames with the person, too few for {part}; expected a "
                             "longer video, or a larger --val_share or --test_share")
        print(f"{part}: {sum(lengths)} frames, in stretches without a cut: {len(lengths)}, the longest {max(lengths)}")
    place_parts(new, raw, parts, joints, args)
    shutil.rmtree(raw)
    write_json(new / "info.json", {"frames_per_second": round(rate, 3)})


def parse() -> argparse.Namespace:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("video", type=Path, metavar="VIDEO", help="what FFmpeg reads, or a folder of numbered images")
    add("--keypoints", type=Path, metavar="K", help="a detector's file or folder (docs/own_video.md lists the forms); "
        "by default find_keypoints.py finds them")
    for name, side, pixels in (("--frame_H", "height", 32), ("--frame_W", "width", 64)):
        add(name, type=positive, default=pixels, metavar="N", help=f"frame {side}, a multiple of 8 (%(default)s)")
    add("--fit", choices=("crop", "letterbox"), default="crop", help="where the video has another aspect: its middle, "
        "or the whole image between black bars (%(default)s)")
    add("--fps", type=positive_float, metavar="N", help="frames a second to take; by default all, a variable rate made "
        f"even; a folder counts as {FOLDER_RATE:g}")
    add("--start", type=natural_float, default=0.0, metavar="S", help="seconds (%(default)s)")
    add("--end", type=natural_float, metavar="S", help="seconds; by default the video's end")
    add("--person", metavar="I", help="whom to follow: number from the left, 0 first, in the first frame "
        "with people, or id:N, the detector's number; by default the largest score times height")
    add("--palette", choices=PALETTES, default=PALETTES[0], help="colours and lines of the poses (%(default)s)")
    add("--min_confidence", type=unit_float, default=0.3, metavar="C", help="joints below are left out (%(default)s)")
    for name in ("val", "test"):
        add(f"--{name}_share", type=number(float, 0, 0.45, low_open=True), default=0.1, metavar="SHARE",
            help=f"share of the frames for {name} (%(default)s)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    with new_dataset(args.out, "import_video", vars(args)) as new:
        import_video(args, new)
    print(f"{args.out}: written; next: python Trainer.py --DR \"{args.out}\" --save_root \"runs/{args.out.name}\" "
          f"--frame_H {args.frame_H} --frame_W {args.frame_W}")


if __name__ == "__main__":
    run_program(main)
