"""The one place that knows the folders of the course's layout: where the data set is, and the files of each mode.

    DR/train/train_img/*.png   DR/train/train_label/*.png     frames and their pose images, paired by number
    DR/val/val_img/*.png       DR/val/val_label/*.png
    DR/test/test_img/<i>/*.png  (the first frame)   DR/test/test_label/<i>/*.png  (one pose per frame)
    DR/test/test_gt/<i>/*.png, Demo_Test/GT<i>.csv    (true frames, where they are known)
    DR/info.json    (frames_per_second, where it is known)

Clips that are numbered alike lie in folders of their own: train_img/<clip>/*.png and train_label/<clip>/*.png.
"""

import os
from pathlib import Path
from typing import NamedTuple

from modules.data.pairing import Faults, Key, numbered_images, one_sequence, subfolders
from modules.files import read_json
from modules.runtime import InputError, collect_errors

FRAMES_PER_SECOND = 20  # of videos where the rate is not known
MODES = ("train", "val", "test")
TEST_LAYOUT = "test/test_img/<i>/frameNNNNNN.png, a first frame, and test/test_label/<i>/*.png, one pose per frame"


class SequenceFiles(NamedTuple):
    """The files of one test sequence."""

    name: str
    first: Path
    poses: list[Path]
    numbers: tuple[int, ...]


def find_root(root: str | Path) -> Path:
    """The folder that holds train/, val/ or test/: `root`, or the nearest at most two levels below it
    (LAB4_Dataset/LAB4_Dataset). Folders that cannot be listed are skipped."""
    root, expected = Path(root), "--DR is the folder that holds train/, val/ and test/"
    try:
        os.listdir(root)
    except OSError as error:
        reason = "not found" if isinstance(error, FileNotFoundError) else f"cannot be listed, {error.strerror}"
        raise InputError(f"{root}: folder {reason}; {expected}") from None
    inside = subfolders(root)
    for folder in (root, *inside, *(below for place in inside for below in subfolders(place))):
        if any(layout_of(folder, mode) for mode in MODES):
            return folder
    raise InputError(f"{root}: holds no train/train_img, val/val_img or test/test_img; {expected}")


def layout_of(root: Path, mode: str) -> Path | None:
    """The folder of one mode that holds train_img/: train/, train/train/ (as archives unpack) or `root` itself."""
    places = (root / mode, root / mode / mode, root)
    return next((place for place in places if os.path.isdir(place / f"{mode}_img")), None)


def mode_folder(root: str | Path, mode: str) -> Path:
    data = find_root(root)
    return layout_of(data, mode) or data / mode


def frames_per_second(root: str | Path, given: float | None = None) -> float:
    """The rate of videos of a data set's frames: `given`, else that in DR/info.json, else FRAMES_PER_SECOND."""
    path = find_root(root) / "info.json"
    info = read_json(path) if given is None and path.is_file() else {}
    rate = given or (info.get("frames_per_second") if isinstance(info, dict) else None) or FRAMES_PER_SECOND
    if not isinstance(rate, (int, float)) or not 0 < rate <= 1000:
        raise InputError(f"{path}: frames_per_second {str(rate)[:40]}; expected a number above 0, at most 1000")
    return rate


def truth_places(root: str | Path) -> list[Path]:
    """Where the true frames of test sequences may lie, the nearest first."""
    beside = (find_root(root), find_root(root).absolute().parent, Path(root).absolute().parent, Path.cwd())
    return [mode_folder(root, "test") / "test_gt", *(place / "Demo_Test" for place in beside)]


def paired_files(folder: Path, mode: str, skip_bad: bool) -> dict[Key, tuple[Path, Path]]:
    """Frames and poses of the same key, in order."""
    faults = Faults()
    frames, poses = collect_errors(
        lambda: numbered_images(folder / f"{mode}_img", faults),
        lambda: numbered_images(folder / f"{mode}_label", faults),
    )
    for images, others, fault in ((frames, poses, "has no pose image"), (poses, frames, "has no frame")):
        for key in images:
            if key not in others:
                faults.add(images[key], fault)
    faults.settle(skip_bad, f"the same numbers in {mode}_img and {mode}_label, names like frame000123.png")
    pairs = {key: (frames[key], poses[key]) for key in frames if key in poses}
    if not pairs:
        raise InputError(f"{folder}: no frame with a pose is left; expected numbers in common")
    return pairs


def find_tests(folder: Path, skip_bad: bool) -> list[SequenceFiles]:
    """The test sequences, one per folder of test_label, numbers first. What is left out or filled in is printed."""
    labels, images, faults, sequences = folder / "test_label", folder / "test_img", Faults(), []
    for place in subfolders(labels):
        try:
            sequences.append(sequence_files(images / place.name, place))
        except InputError as error:
            faults.add(place, str(error).removeprefix(f"{place}: "))
    unused = [path.name for path in subfolders(images) if not (labels / path.name).is_dir()]
    if unused:
        print(f"{images}: left out, since test_label has no such folder: {', '.join(unused)}")
    faults.settle(skip_bad, TEST_LAYOUT)
    if not sequences:
        raise InputError(f"{labels}: no test sequence; expected {TEST_LAYOUT}")
    return sequences


def sequence_files(first: Path, place: Path) -> SequenceFiles:
    """Pair the first frame in one folder with the poses in `place` by number, so that poses[0] is the first frame's.

    Of several images in `first` the one of the lowest number that fits is taken. The pose of the first frame may be
    missing, since no model looks at it.
    """
    if not first.is_dir():
        raise InputError(f"{place}: no first frame (expected {first}/frameNNNNNN.png)")
    frames, poses = one_sequence(first), one_sequence(place)
    number = next((number for number in frames if number in poses or number + 1 in poses), None)
    if number is None:
        raise InputError(f"{place}: poses {min(poses)} to {max(poses)}, but the first frame is {min(frames)}; expected "
                         f"its number there")
    numbers = [number, *(later for later in poses if later > number)]
    if len(numbers) < 2:
        raise InputError(f"{place}: no pose after the first frame, {number}; expected one per frame to predict")
    if numbers != list(poses) or len(frames) > 1:
        print(f"{place}: {len(numbers) - 1:,} of {len(poses):,} poses follow the first frame, {frames[number].name}")
    poses.setdefault(number, poses[numbers[1]])
    return SequenceFiles(place.name, frames[number], [poses[number] for number in numbers], tuple(numbers))
