"""Lay a subject of the public data of "Everybody Dance Now" (Chan et al. 2019) out as the course's data set.

    python scripts/import_edn.py subject4 --out DR

FOLDER holds train/train_img, train/train_label, test/test_img and test/test_label. Subject 4 is the course's: frames 0
to 629 of its test part are the validation, each further 630 a test sequence. So it is here for all subjects.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from modules.data.layout import find_root, mode_folder, paired_files
from modules.options import two_or_more
from modules.pose.output import new_dataset
from modules.progress import Progress
from modules.runtime import run_program


def place(source: Path, target: Path) -> None:
    """A link to the same file where the drive has such, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def import_edn(root: Path, new: Path, length: int) -> None:
    """Place the frames of a subject below the folder `new`."""
    parts = {mode: mode_folder(root, mode) for mode in ("train", "test")}
    pairs = {mode: list(paired_files(folder, mode, skip_bad=True).items()) if (folder / f"{mode}_img").is_dir() else []
             for mode, folder in parts.items()}
    places = [("train/train_img", "train/train_label", pairs["train"])]
    for i, start in enumerate(range(0, len(pairs["test"]), length), -1):
        folders = ("val/val_img", "val/val_label") if i < 0 else (f"test/test_gt/{i}", f"test/test_label/{i}")
        places.append((*folders, pairs["test"][start : start + length]))
    places = [entry for entry in places if len(entry[2]) > 1]
    with Progress("linking", sum(len(entry[2]) for entry in places), "frame") as bar:
        for images, labels, entries in places:
            for (_, number), (image, label) in entries:
                place(image, new / images / f"frame{number:06d}{image.suffix}")
                place(label, new / labels / f"frame{number:06d}{label.suffix}")
                bar.update()
            (_, number), (image, _) = entries[0]
            if "test_gt" in images:
                place(image, new / images.replace("test_gt", "test_img") / f"frame{number:06d}{image.suffix}")
            print(f"{images}: {len(entries):,} frames")
    if len(places) < 3:
        print("warning: too few test frames for a validation and a test sequence; training needs both", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.error = lambda message: parser.exit(2, f"error: {message}\n")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a subject: the folder that holds train/ and test/")
    parser.add_argument("--out", type=Path, required=True, metavar="DR", help="folder for the data set; new or empty")
    parser.add_argument("--length", type=two_or_more, default=630, metavar="N",
                        help="frames of the validation and of each test sequence (%(default)s)")
    args = parser.parse_args()
    root = find_root(args.folder)
    with new_dataset(args.out, "import_edn", vars(args)) as new:
        import_edn(root, new, args.length)
    print(f"{args.out}: written; next: python Trainer.py --DR {args.out} --save_root runs/{args.out.name}")


if __name__ == "__main__":
    run_program(main)
