"""Let a dancer dance as somebody else does: another person's keypoints, made to fit the dancer, as test sequences.

    python scripts/drive.py --DR DR --keypoints OTHER --out DRIVEN
    python Tester.py --DR DRIVEN --save_root runs/mine/driven --ckpt_path runs/mine/best.ckpt

DR is what import_video.py (or make_dataset.py with --keypoints) wrote: its keypoints.json says how tall the dancer is
and where he stands. Each sequence begins with the dancer's first frame and its pose; from frame 1 on it moves as OTHER.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from modules.data.layout import find_root
from modules.data.pairing import list_images
from modules.files import read_json
from modules.pose.keypoints import follow, read_keypoints
from modules.pose.output import new_dataset
from modules.pose.retarget import find_standing, fit_to
from modules.pose.skeleton import Lines, draw_poses
from modules.runtime import InputError, run_program

PROGRAM = "drive"


def read_dancer(root: Path) -> tuple[np.ndarray, float, Lines]:
    """The dancer's joints (T, J, 3) in his training frames' pixels, from what confidence on they are drawn, and how."""
    file = root / "keypoints.json"
    if not file.is_file():
        raise InputError(f"{file}: not found; expected a set that import_video.py, or make_dataset.py with "
                         "--keypoints, wrote")
    people = read_keypoints(file)
    info = read_json(file).get("info")
    try:
        confidence, lines = float(info["min_confidence"]), Lines(float(info["limb"]), float(info["least"]))
    except (KeyError, TypeError, ValueError):
        raise InputError(f'{file}: no "info" with min_confidence, limb and least, numbers; expected the file that '
                         "import_video.py wrote") from None
    return follow(people, confidence, frozenset(range(len(people)))), confidence, lines


def read_clips(paths: list[Path], args: argparse.Namespace) -> list[np.ndarray]:
    """The person's joints (T, J, 3) of every clip."""
    numbers = () if args.person is None else (args.person,)
    clips = [follow(read_keypoints(path), args.min_confidence, numbers=numbers) for path in paths]
    for path, clip in zip(paths, clips, strict=True):
        if not clip[..., 2].any():
            raise InputError(f"{path}: no person at all in it")
    return clips


def drive(args: argparse.Namespace, new: Path) -> None:
    """Write the test sequences below the folder `new`."""
    root = find_root(args.DR)
    dancer, dancer_confidence, lines = read_dancer(root)
    first = list_images(root / "train" / "train_img")[0]
    with Image.open(first) as picture:
        width, height = picture.size
    clips = read_clips(args.keypoints, args)
    if not args.no_fit:
        measured = read_clips(args.fit_with, args) if args.fit_with else clips
        source = find_standing(np.concatenate(measured), args.min_confidence, f"{(args.fit_with or args.keypoints)[0]}")
        target = find_standing(dancer, dancer_confidence, f"{root / 'keypoints.json'}")
        print(f"The other is {source.height:.1f} px tall and stands at ({source.across:.1f}, {source.floor:.1f}), the "
              f"dancer is {target.height:.1f} px tall and stands at ({target.across:.1f}, {target.floor:.1f})")
        clips = [fit_to(clip, source, target) for clip in clips]
    for index, joints in enumerate(clips):
        label, given = new / f"test/test_label/{index}", new / f"test/test_img/{index}"
        label.mkdir(parents=True)
        given.mkdir(parents=True)
        if len(joints) < 2:
            raise InputError(f"{args.keypoints[index]}: {len(joints)} frame; expected a clip")
        absent = int((~joints[..., 2].any(axis=1)).sum())
        drawn = draw_poses(joints, args.min_confidence, height, width, lines)
        for t, pose in enumerate(drawn):
            pose.save(label / f"frame{t:06d}.png")
        # the first pose belongs to the given frame
        with Image.open(root / "train/train_label" / first.name) as pose, Image.open(first) as picture:
            pose.convert("RGB").save(label / "frame000000.png")
            picture.convert("RGB").save(given / "frame000000.png")
        print(f"{args.keypoints[index]}: sequence {index}, {len(joints)} frames, {absent} of them without a person")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.error = lambda message: parser.exit(2, f"error: {message}\n")
    add = parser.add_argument
    add("--DR", required=True, help="the dancer's data set, with keypoints.json")
    add("--keypoints", type=Path, required=True, nargs="+", metavar="OTHER", help="OpenPose folders or COCO files of "
        "the other person, one a clip, all of one camera; each becomes a sequence")
    add("--fit_with", type=Path, nargs="+", metavar="K", help="where to measure how tall the other is and where he "
        "stands: longer clips by the same camera; by default OTHER's clips, all together")
    add("--out", type=Path, required=True, metavar="DRIVEN", help="folder for the test sequences; new or empty")
    add("--no_fit", action="store_true", help="take the keypoints as they are, as pixels of the dancer's frames")
    add("--person", type=int, metavar="I", help="whom to follow, see import_video.py")
    add("--min_confidence", type=float, default=0.3, metavar="C", help="joints below are left out (%(default)s)")
    add("--overwrite", action="store_true", help="replace what this script wrote into DRIVEN before")
    args = parser.parse_args()
    with new_dataset(args.out, PROGRAM, args.overwrite, vars(args)) as new:
        drive(args, new)
    print(f"{args.out}: written; next: python Tester.py --DR {args.out} --save_root {args.out}/predicted --ckpt_path "
          "RUN/best.ckpt")


if __name__ == "__main__":
    run_program(main)
