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

from modules.data.layout import find_root, frames_per_second, mode_folder, paired_files
from modules.data.reading import read_image
from modules.files import write_json
from modules.options import unit_float
from modules.pose.keypoints import check_person, follow, read_keypoints
from modules.pose.output import new_dataset, script_parser
from modules.pose.retarget import Standing, find_standing, fit_to, standing_in
from modules.pose.skeleton import COURSE_SIZE, draw_poses
from modules.runtime import InputError, run_program

MOST = 600  # pose images that tell where a person stands


def read_dancer(file: Path) -> tuple[np.ndarray, float, tuple[float, float] | None]:
    """The dancer's joints (T, J, 3) in pixels of the training frames, the least confidence of joints that are drawn,
    and the widths of a limb and of the thinnest line, None in the palette "course"."""
    if not file.is_file():
        raise InputError(f"{file}: not found; import_video.py writes it, and make_dataset.py with --keypoints; "
                         "--palette course does without for the course's data set")
    keypoints = read_keypoints(file)
    people, info = keypoints.matched(), keypoints.info
    if not {"min_confidence", "widths"} <= set(info):
        raise InputError(f'{file}: no "info" with min_confidence and widths; expected an import with this version')
    return follow(people, info["min_confidence"], range(len(people))), info["min_confidence"], info["widths"]


def read_clip(path: Path, args: argparse.Namespace, rate: float) -> np.ndarray:
    """The person's joints (T, J, 3) of a clip. rate: of the dancer's frames."""
    keypoints = read_keypoints(path)
    clip = follow(keypoints.matched(), args.min_confidence, who=args.person)
    own = keypoints.info.get("frames_per_second", rate)
    if not 0.9 < own / rate < 1.1:
        print(f"warning: {path}: {own:g} frames a second, the dancer's have {rate:g}: the dance plays {rate / own:.2f} "
              "times as fast", file=sys.stderr)
    return clip


def fit_by_images(
    other: np.ndarray, source: Standing, files: list[Path], size: tuple[int, int], least: float
) -> list[tuple[Standing, Standing, float]]:
    """The arguments of fit_to in two steps, for a dancer with pose images in the palette "course" and no joints: to
    where these say, and then as far as the other person's (T, J, 3) fitted pose images, measured alike, are off."""
    images = [read_image(path, size[1], size[0]).transpose(1, 2, 0) for path in files[:: -(-len(files) // MOST)]]
    target, stretch = standing_in(images), size[0] / size[1] / (COURSE_SIZE[0] / COURSE_SIZE[1])
    fitted = fit_to(other[:: -(-len(other) // MOST)], source, target, stretch)
    drawn = [np.asarray(pose) for pose in draw_poses(fitted, least, size[1], size[0], None)]
    return [(source, target, stretch), (standing_in(drawn), target, 1.0)]


def drive(args: argparse.Namespace, new: Path) -> None:
    """Write the test sequences below the folder `new`."""
    root, train = find_root(args.DR), mode_folder(args.DR, "train")
    dancer = None if args.palette else read_dancer(root / "keypoints.json")
    pairs = [*paired_files(train, "train", skip_bad=True).values()]
    image, first_pose = (Image.fromarray(read_image(path).transpose(1, 2, 0)) for path in pairs[0])
    rate = frames_per_second(root)
    clips = [read_clip(path, args, rate) for path in args.keypoints]
    if not args.no_fit:
        other = np.concatenate([read_clip(path, args, rate) for path in args.fit_with] or clips)
        source = find_standing(other, args.min_confidence, f"{(args.fit_with or args.keypoints)[0]}")
        if dancer:
            fits = [(source, find_standing(dancer[0], dancer[1], f"{root / 'keypoints.json'}"))]
        else:
            fits = fit_by_images(other, source, [pose for _, pose in pairs], image.size, args.min_confidence)
        for name, person in zip(("The other person", "The dancer"), fits[0], strict=False):
            print(f"{name} is {person.height:.1f} px tall and stands at ({person.across:.1f}, {person.floor:.1f})")
        for fit in fits:
            clips = [fit_to(clip, *fit) for clip in clips]
    for index, (path, joints) in enumerate(zip(args.keypoints, clips, strict=True)):
        check_person(joints, image.size, args.min_confidence, path)
        label, given = new / f"test/test_label/{index}", new / f"test/test_img/{index}"
        label.mkdir(parents=True)
        given.mkdir(parents=True)
        widths = dancer and dancer[2]
        for t, pose in enumerate(draw_poses(joints, args.min_confidence, image.height, image.width, widths)):
            (pose if t else first_pose).save(label / f"frame{t:06d}.png")  # the first belongs to the given frame
        image.save(given / "frame000000.png")
        print(f"{path}: sequence {index}, {len(joints)} frames")
    write_json(new / "info.json", {"frames_per_second": rate})


def main() -> None:
    parser = script_parser(__doc__, "folder for the test sequences; new or empty")
    add = parser.add_argument
    add("--DR", required=True, help="the dancer's data set, with keypoints.json")
    add("--keypoints", type=Path, required=True, nargs="+", metavar="OTHER", help="detectors' folders or files of "
        "the other person, one a clip, all of one camera; each becomes a sequence")
    add("--palette", choices=["course"], help="the dancer's poses have the course's palette: these images are measured "
        "in place of keypoints.json")
    add("--fit_with", type=Path, nargs="+", default=[], metavar="K", help="where to measure the other person's "
        "height and place: longer clips of the same camera; by default all of OTHER")
    add("--no_fit", action="store_true", help="take the keypoints as they are, as pixels of the dancer's frames")
    add("--person", metavar="I", help="whom to follow, see import_video.py")
    add("--min_confidence", type=unit_float, default=0.3, metavar="C", help="joints below are left out (%(default)s)")
    args = parser.parse_args()
    with new_dataset(args.out, "drive", vars(args)) as new:
        drive(args, new)
    print(f"{args.out}: written; next: python Tester.py --DR \"{args.out}\" --save_root \"{args.out}/predicted\" "
          "--ckpt_path RUN/best.ckpt")


if __name__ == "__main__":
    run_program(main)
