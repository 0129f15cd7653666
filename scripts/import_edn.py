"""Lay a subject of the public data of "Everybody Dance Now" (Chan et al. 2019) out as the course's data set.

    python scripts/import_edn.py subject4 --out DR

FOLDER holds train/train_img, train/train_label, test/test_img and test/test_label. Subject 4 is the course's: frames 0
to 629 of its test part are the validation, each further 630 a test sequence. So it is here for all subjects.
"""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from modules.data.pairing import one_sequence
from modules.pose.output import new_dataset, script_parser
from modules.runtime import run_program

LENGTH = 630  # frames of the validation and of each test sequence


def import_edn(root: Path, new: Path) -> None:
    """Copy the frames of a subject below the folder `new`."""
    for mode, kind in (("train", "img"), ("train", "label"), ("test", "img"), ("test", "label")):
        for i, (number, file) in enumerate(one_sequence(root / mode / f"{mode}_{kind}").items()):
            sequence, place = divmod(i, LENGTH)
            target = f"{mode}/{mode}_{kind}/frame{number:06d}.png"
            if mode == "test" and sequence == 0:
                target = f"val/val_{kind}/frame{number:06d}.png"
            elif mode == "test":
                target = f"test/test_{'gt' if kind == 'img' else kind}/{sequence - 1}/frame{place:06d}.png"
            (new / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, new / target)


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a subject: the folder that holds train/ and test/")
    args = parser.parse_args()
    with new_dataset(args.out, "import_edn", vars(args)) as new:
        import_edn(args.folder, new)
    print(f"{args.out}: written; next: python Trainer.py --DR \"{args.out}\" --save_root \"runs/{args.out.name}\"")


if __name__ == "__main__":
    run_program(main)
