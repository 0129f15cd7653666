"""Let a dancer move like somebody else: another person's keypoints, fitted to the dancer, become test sequences.

    python scripts/drive.py --DR DR --keypoints OTHER --out DRIVEN
    python Tester.py --DR DRIVEN --save_root runs/mine/driven --ckpt_path runs/mine/best.ckpt

DR is what import_video.py (or make_dataset.py with --keypoints) wrote: its keypoints.json tells how tall the dancer is
and where they stand. With --palette course DR may be the course's data set: there its pose images tell it. Each
sequence begins with the dancer's first frame and its pose, and then moves as OTHER.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from modules.data.layout import find_root, frames_per_second
from modules.data.pairing import one_sequence
from modules.data.reading import read_image
from modules.files import write_json
from modules.options import unit_float
from modules.pose.keypoints import check_person, follow, read_keypoints
from modules.pose.output import new_dataset
from modules.pose.retarget import find_standing, fit_to, standing_in
from modules.pose.skeleton import COURSE_SIZE, draw_poses
from modules.runtime import InputError, run_program

MOST, MEASURED = 600, (64, 128)  # pose images that tell where a person stands: how many, and their height and width


def read_dancer(file: Path) -> tuple[np.ndarray, float, tuple[float, float] | None]:
    """The dancer's joints (T, J, 3) in pixels of the training frames, the least confidence of joints that are drawn,
    and the widths of a limb and of the thinnest line, None in the palette "course"."""
    if not file.is_file():
        raise InputError(f"{file}: not found; import_video.py writes it, and make_dataset.py with --keypoints; "
                         "--palette course does without for the course's data set")
    keypoints = read_keypoints(file)
    people, info = keypoints.matched(), keypoints.info
    try:
        confidence, *widths = (float(info[key]) for key in ("min_confidence", "limb", "least"))
    except (KeyError, TypeError, ValueError):
        raise InputError(f'{file}: no "info" with numbers min_confidence, limb and least; expected the file that '
                         "import_video.py wrote") from None
    joints = follow(people, confidence, range(len(people)))
    return joints, confidence, None if info.get("palette") == "course" else tuple(widths)


def read_clip(path: Path, args: argparse.Namespace, rate: float) -> np.ndarray:
    """The person's joints (T, J, 3) of a clip. rate: of the dancer's frames."""
    keypoints = read_keypoints(path)
    clip = follow(keypoints.matched(), args.min_confidence, who=args.person)
    own = keypoints.info.get("frames_per_second")
    if len(clip) < 2:
        raise InputError(f"{path}: one frame; expected a clip of a person")
    if isinstance(own, (int, float)) and not 0.9 < own / rate < 1.1:
        print(f"warning: {path}: {own:g} frames a second, the dancer's have {rate:g}: the dance plays {rate / own:.2f} "
              "times as fast", file=sys.stderr)
    return clip


def fit(clips: list[np.ndarray], measured: np.ndarray, dancer: tuple, labels: Path, args: argparse.Namespace,
        size: tuple[int, int]) -> list[np.ndarray]:
    """Clips fitted to the dancer, in pixels of frames of size (width, height). `measured`: joints that show where the
    other person stands. dancer: joints and least confidence; joints None: measured in the pose images in `labels`."""
    source, stretch = find_standing(measured, args.min_confidence, f"{(args.fit_with or args.keypoints)[0]}"), 1.0
    if dancer[0] is not None:
        target = find_standing(*dancer, "keypoints.json of the dancer")
    else:  # the other person is measured in pose images, too: both have the same errors
        files = list(one_sequence(labels).values())
        images = [read_image(path, *MEASURED).transpose(1, 2, 0) for path in files[:: -(-len(files) // MOST)]]
        target, stretch = standing_in(images, size), size[0] / size[1] / (COURSE_SIZE[0] / COURSE_SIZE[1])
        measured = fit_to(measured, source, target, stretch)[:: -(-len(measured) // MOST)]
        small = measured * (MEASURED[1] / size[0], MEASURED[0] / size[1], 1)
        poses = [np.asarray(pose) for pose in draw_poses(small, args.min_confidence, *MEASURED, None)]
        drawn = standing_in(poses, size)
    for name, standing in (("The other person", source), ("The dancer", target)):
        print(f"{name} is {standing.height:.1f} px tall and stands at ({standing.across:.1f}, {standing.floor:.1f})")
    clips = [fit_to(clip, source, target, stretch) for clip in clips]
    return clips if dancer[0] is not None else [fit_to(clip, drawn, target) for clip in clips]


def drive(args: argparse.Namespace, new: Path) -> None:
    """Write the test sequences below the folder `new`."""
    root = find_root(args.DR)
    if args.palette and not (root / "keypoints.json").is_file():
        dancer, widths = (None, 0), None
    else:
        *dancer, widths = read_dancer(root / "keypoints.json")
    if args.palette and widths:
        raise InputError(f"--palette course: the poses of {root} have the other palette; leave the flag out")
    first = min(one_sequence(root / "train/train_img").items())[1]
    image, first_pose = (Image.fromarray(read_image(path).transpose(1, 2, 0)) for path in (
        first, root / "train/train_label" / first.name))
    rate = frames_per_second(root)
    clips = [read_clip(path, args, rate) for path in args.keypoints]
    if not args.no_fit:
        measured = np.concatenate([read_clip(path, args, rate) for path in args.fit_with] or clips)
        clips = fit(clips, measured, dancer, root / "train/train_label", args, image.size)
    for path, clip in zip(args.keypoints, clips, strict=True):
        check_person(clip, image.size, args.min_confidence, path)
    for index, joints in enumerate(clips):
        label, given = new / f"test/test_label/{index}", new / f"test/test_img/{index}"
        label.mkdir(parents=True)
        given.mkdir(parents=True)
        for t, pose in enumerate(draw_poses(joints, args.min_confidence, image.height, image.width, widths)):
            (pose if t else first_pose).save(label / f"frame{t:06d}.png")  # the first belongs to the given frame
        image.save(given / "frame000000.png")
        print(f"{args.keypoints[index]}: sequence {index}, {len(joints)} frames")
    write_json(new / "info.json", {"frames_per_second": rate})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.error = lambda message: parser.exit(2, f"error: {message}\n")
    add = parser.add_argument
    add("--DR", required=True, help="the dancer's data set, with keypoints.json")
    add("--keypoints", type=Path, required=True, nargs="+", metavar="OTHER", help="detectors' folders or files of "
        "the other person, one a clip, all of one camera; each becomes a sequence")
    add("--palette", choices=["course"], help="for a data set without keypoints.json: its pose images are measured")
    add("--fit_with", type=Path, nargs="+", default=[], metavar="K", help="where to measure the other person's "
        "height and place: longer clips of the same camera; by default all of OTHER")
    add("--out", type=Path, required=True, metavar="DRIVEN", help="folder for the test sequences; new or empty")
    add("--no_fit", action="store_true", help="take the keypoints as they are, as pixels of the dancer's frames")
    add("--person", metavar="I", help="whom to follow, see import_video.py")
    add("--min_confidence", type=unit_float, default=0.3, metavar="C", help="joints below are left out (%(default)s)")
    args = parser.parse_args()
    with new_dataset(args.out, "drive", vars(args)) as new:
        drive(args, new)
    print(f"{args.out}: written; next: python Tester.py --DR {args.out} --save_root {args.out}/predicted --ckpt_path "
          "RUN/best.ckpt")


if __name__ == "__main__":
    run_program(main)
