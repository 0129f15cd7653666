"""Lay a subject of the public data of "Everybody Dance Now" (Chan et al. 2019) out as the course's data set.

    python scripts/import_edn.py subject4 --out DR

FOLDER holds train/train_img, train/train_label, test/test_img and test/test_label. Subject 4 is the course's: frames 0
to 629 of its test part are the validation, each further 630 a test sequence. So it is here for all subjects.
"""

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from modules.data.layout import find_root, mode_folder
from modules.data.pairing import one_sequence
from modules.pose.output import new_dataset
from modules.progress import Progress
from modules.runtime import run_program

LENGTH = 630  # frames of the validation and of each test sequence


def import_edn(root: Path, new: Path) -> None:
    """Copy the frames of a subject below the folder `new`."""
    for mode, kind in (("train", "img"), ("train", "label"), ("test", "img"), ("test", "label")):
        folder = mode_folder(root, mode) / f"{mode}_{kind}"
        files = list(one_sequence(folder).values()) if mode == "train" or folder.is_dir() else []
        with Progress(folder.name, len(files), "frame") as bar:
            for i, file in enumerate(files):
                part = "train" if mode == "train" else "val" if i < LENGTH else "test"
                targets = [f"{part}/{part}_{kind}"]
                if part == "test":
                    targets = [f"test/test_{'gt' if kind == 'img' else kind}/{i // LENGTH - 1}"]
                    targets += [f"test/test_img/{i // LENGTH - 1}"] * (kind == "img" and i % LENGTH == 0)
                for target in targets:
                    (new / target).mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, new / target / file.name)
                bar.update()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.error = lambda message: parser.exit(2, f"error: {message}\n")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a subject: the folder that holds train/ and test/")
    parser.add_argument("--out", type=Path, required=True, metavar="DR", help="folder for the data set; new or empty")
    args = parser.parse_args()
    root = find_root(args.folder)
    with new_dataset(args.out, "import_edn", vars(args)) as new:
        import_edn(root, new)
    print(f"{args.out}: written; next: python Trainer.py --DR {args.out} --save_root runs/{args.out.name}")


if __name__ == "__main__":
    run_program(main)
