"""Let a dancer move like somebody else: another person's keypoints, fitted to the dancer, become test sequences.

    python scripts/drive.py --DR DR --keypoints OTHER --out DRIVEN
    python Tester.py --DR DRIVEN --save_root runs/mine/driven --ckpt_path runs/mine/best.ckpt

DR is what import_video.py (or make_dataset.py with --keypoints) wrote: its keypoints.json tells how tall the dancer is
and where they stand. Each sequence begins with the dancer's first frame and its pose, and then moves as OTHER.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from modules.data.layout import find_root
from modules.data.pairing import one_sequence
from modules.data.reading import read_image
from modules.files import read_json
from modules.options import natural, unit_float
from modules.pose.keypoints import follow, read_keypoints
from modules.pose.output import new_dataset
from modules.pose.retarget import find_standing, fit_to
from modules.pose.skeleton import draw_poses
from modules.runtime import InputError, run_program


def read_dancer(file: Path) -> tuple[np.ndarray, float, tuple[float, float]]:
    """The dancer's joints (T, J, 3) in pixels of the training frames, the least confidence of joints that are drawn,
    and the widths of a limb and of the thinnest line."""
    if not file.is_file():
        raise InputError(f"{file}: not found; import_video.py writes it, and make_dataset.py with --keypoints")
    people, info = read_keypoints(file), read_json(file).get("info")
    try:
        confidence, *widths = (float(info[key]) for key in ("min_confidence", "limb", "least"))
    except (KeyError, TypeError, ValueError):
        raise InputError(f'{file}: no "info" with numbers min_confidence, limb and least; expected the file that '
                         "import_video.py wrote") from None
    return follow(people, confidence, frozenset(range(len(people)))), confidence, tuple(widths)


def read_clip(path: Path, args: argparse.Namespace) -> np.ndarray:
    """The person's joints (T, J, 3) of a clip."""
    clip = follow(read_keypoints(path), args.min_confidence, number=args.person)
    if len(clip) < 2 or not clip[..., 2].any():
        raise InputError(f"{path}: {len(clip)} frames, in none a person; expected a clip of a person")
    return clip


def drive(args: argparse.Namespace, new: Path) -> None:
    """Write the test sequences below the folder `new`."""
    root = find_root(args.DR)
    dancer, dancer_confidence, widths = read_dancer(root / "keypoints.json")
    first = min(one_sequence(root / "train/train_img").items())[1]
    image, first_pose = (Image.fromarray(read_image(path).transpose(1, 2, 0)) for path in (
        first, root / "train/train_label" / first.name))
    clips = [read_clip(path, args) for path in args.keypoints]
    if not args.no_fit:
        measured = [read_clip(path, args) for path in args.fit_with or args.keypoints]
        source = find_standing(np.concatenate(measured), args.min_confidence, f"{(args.fit_with or args.keypoints)[0]}")
        target = find_standing(dancer, dancer_confidence, f"{root / 'keypoints.json'}")
        for name, person in (("The other person", source), ("the dancer", target)):
            print(f"{name} is {person.height:.1f} px tall and stands at ({person.across:.1f}, {person.floor:.1f})")
        clips = [fit_to(clip, source, target) for clip in clips]
    for index, joints in enumerate(clips):
        label, given = new / f"test/test_label/{index}", new / f"test/test_img/{index}"
        label.mkdir(parents=True)
        given.mkdir(parents=True)
        for t, pose in enumerate(draw_poses(joints, args.min_confidence, image.height, image.width, widths)):
            (pose if t else first_pose).save(label / f"frame{t:06d}.png")  # the first belongs to the given frame
        image.save(given / "frame000000.png")
        print(f"{args.keypoints[index]}: sequence {index}, {len(joints)} frames")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.error = lambda message: parser.exit(2, f"error: {message}\n")
    add = parser.add_argument
    add("--DR", required=True, help="the dancer's data set, with keypoints.json")
    add("--keypoints", type=Path, required=True, nargs="+", metavar="OTHER", help="OpenPose folders or COCO files of "
        "the other person, one a clip, all of one camera; each becomes a sequence")
    add("--fit_with", type=Path, nargs="+", metavar="K", help="where to measure the other person's height and place: "
        "longer clips of the same camera; by default all of OTHER")
    add("--out", type=Path, required=True, metavar="DRIVEN", help="folder for the test sequences; new or empty")
    add("--no_fit", action="store_true", help="take the keypoints as they are, as pixels of the dancer's frames")
    add("--person", type=natural, metavar="I", help="whom to follow, see import_video.py")
    add("--min_confidence", type=unit_float, default=0.3, metavar="C", help="joints below are left out (%(default)s)")
    args = parser.parse_args()
    with new_dataset(args.out, "drive", vars(args)) as new:
        drive(args, new)
    print(f"{args.out}: written; next: python Tester.py --DR {args.out} --save_root {args.out}/predicted --ckpt_path "
          "RUN/best.ckpt")


if __name__ == "__main__":
    run_program(main)
