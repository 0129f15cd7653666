"""The one place that knows the folders of the course's layout: where the data set is, and the files of each mode.

    DR/train/train_img/*.png   DR/train/train_label/*.png     frames and their pose pictures, paired by number
    DR/val/val_img/*.png       DR/val/val_label/*.png
    DR/test/test_img/<i>/*.png  (the first frame)   DR/test/test_label/<i>/*.png  (one pose per frame)
    DR/test/test_gt/<i>/*.png, Demo_Test/GT<i>.csv    (true frames, where they are known)
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from modules.data.pairing import (
    Faults,
    Key,
    by_number,
    find_clips,
    natural,
    numbered_pictures,
    pair,
    picture_groups,
    pictures_in,
    sequence_start,
    subfolders,
)
from modules.runtime import InputError, collect_errors

MODES = ("train", "val", "test")
PARTS = (*MODES, *(f"{mode}_{kind}" for mode in MODES for kind in ("img", "label")))
TEST_LAYOUT = "test/test_img/<i>/frameNNNNNN.png, a first frame, and test/test_label/<i>/*.png, one pose per frame"


class SequenceFiles(NamedTuple):
    """The files of one test sequence."""

    name: str
    first: Path
    poses: list[Path]
    numbers: tuple[int, ...]


def find_root(root: str | Path) -> Path:
    """The folder that holds train/, val/ and test/: `root`, one it is a part of (DR/train), or one that lies in it
    (LAB4_Dataset/LAB4_Dataset). The nearest is taken; folders that can't be listed are passed over."""
    root = Path(root)
    try:
        os.stat(root)
    except OSError as error:
        reason = "" if isinstance(error, FileNotFoundError) else f" ({error.strerror})"
        raise InputError(
            f"{root}: folder not found{reason}; --DR is the folder that holds train/, val/ and test/"
        ) from None
    if not os.path.isdir(root):
        raise InputError(f"{root}: not a folder; --DR is the folder that holds train/, val/ and test/")
    closed: list[Path] = []

    def candidates() -> Iterator[Path]:
        if any(os.path.isdir(root / mode / f"{mode}_img") for mode in MODES):
            yield root
        if root.absolute().name in PARTS:
            yield from reversed(root.absolute().parents[:2])
        yield root
        inside = subfolders(root, closed)
        yield from inside
        for folder in inside:
            yield from subfolders(folder, closed)

    for candidate in candidates():
        if any(layout_of(candidate, mode) for mode in MODES):
            return candidate
    unseen = f"; cannot look into {closed[0]}" if closed else ""
    raise InputError(
        f"{root}: holds no train/train_img, val/val_img or test/test_img{unseen}; expected LAB4_Dataset's layout"
    )


def layout_of(root: Path, mode: str) -> Path | None:
    """The folder of one mode, train/ or train/train/ (as archives unpack) or `root` itself: the one with train_img/."""
    places = (root / mode, root / mode / mode, root)
    return next((place for place in places if os.path.isdir(place / f"{mode}_img")), None)


def mode_folder(root: str | Path, mode: str) -> Path:
    data = find_root(root)
    return layout_of(data, mode) or data / mode


def has_training(root: str | Path) -> bool:
    """Whether the data set has training pictures."""
    return layout_of(find_root(root), "train") is not None


def training_images(root: str | Path) -> tuple[list[Path], list[Path]]:
    """The paths of all training frames and of their poses."""
    keys, frames, poses = paired_files(mode_folder(root, "train"), "train", skip_bad=False)
    return [frames[key] for key in keys], [poses[key] for key in keys]


def truth_places(root: str | Path) -> list[Path]:
    """Where the true frames of test sequences may lie, the nearest first."""
    data = find_root(root)
    beside = (data, data.absolute().parent, Path(root).absolute().parent, Path.cwd())
    return [mode_folder(root, "test") / "test_gt", *(place / "Demo_Test" for place in beside)]


def paired_files(folder: Path, mode: str, skip_bad: bool) -> tuple[list[Key], dict[Key, Path], dict[Key, Path]]:
    """The keys that have a frame and a pose, and the files of both."""
    faults = Faults()
    kinds = [folder / f"{mode}_{kind}" for kind in ("img", "label")]
    groups = collect_errors(*(lambda kind=kind: picture_groups(kind) for kind in kinds))
    frames, poses = (by_number(group, faults) for group in groups)
    keys = pair(frames, poses, faults)
    faults.settle(skip_bad, f"the same numbers in {mode}_img and {mode}_label, names like frame000123.png")
    if not keys:
        raise InputError(f"{folder}: no frame with a pose is left; expected numbers in common")
    return keys, frames, poses


def find_tests(folder: Path, skip_bad: bool) -> list[SequenceFiles]:
    """The test sequences, one per folder of test_label, numbers first. What is left out or filled in is said."""
    labels, images, faults, sequences = folder / "test_label", folder / "test_img", Faults(), []
    if not labels.is_dir():
        raise InputError(f"{labels}: folder not found; expected {TEST_LAYOUT}")
    places = {natural(path.name): path for path in subfolders(labels)}
    if not places and pictures_in(labels):
        places = {natural("0"): labels}
    firsts = {}
    if images.is_dir():
        firsts = {natural(path.stem): path for path in pictures_in(images)}  # test_img/0.png in place of test_img/0/
        firsts |= {natural(path.name): path for path in subfolders(images)}
        if places.get(natural("0")) == labels:
            firsts = {natural("0"): images}
    for key, place in places.items():
        name = "0" if place == labels else place.name
        try:
            if key in firsts:
                sequences.append(sequence_files(name, firsts[key], place, faults))
            else:
                picture_groups(place)
                faults.add(place, f"no first frame (expected {images / name}/frameNNNNNN.png)")
        except InputError as error:
            if key in firsts:
                faults.add(place, str(error).removeprefix(f"{place}: "))
            else:
                print(f"{place}: no pictures in it, left out")
    unused = [path.name for key, path in firsts.items() if key not in places]
    if unused:
        print(f"{images}: without poses in test_label, left out: {', '.join(unused[:5])}{' …' if unused[5:] else ''}")
    faults.settle(skip_bad, TEST_LAYOUT)
    if not sequences:
        raise InputError(f"{labels}: no test sequence; expected {TEST_LAYOUT}")
    return sequences


def sequence_files(name: str, first: Path, place: Path, faults: Faults) -> SequenceFiles:
    """Pair a first frame with the poses in `place` by number, so that poses[0] is the first frame's."""
    poses = numbered_pictures(place, faults)
    numbers, files = list(poses), list(poses.values())
    if first.is_dir():
        found = [path for group in picture_groups(first).values() for path in group]
        if len(found) > 1:
            frames = numbered_pictures(first, faults)
            start = sequence_start(list(frames), numbers)
            chosen = frames[start[0]] if start else found[0]
            print(f"{first}: {len(found):,} pictures; the first frame is {chosen.name}")
        else:
            chosen, frames = found[0], by_number({"": found}, Faults())  # one picture needs no number
            start = sequence_start([number for _, number in frames], numbers) if frames else (numbers[0], 0)
    else:
        chosen, start = first, (numbers[0], 0)  # its number is the sequence's
    if start is None:
        raise InputError(
            f"{place}: poses {numbers[0]} to {numbers[-1]}, but the first frame is {chosen}; expected its number there"
        )
    number, begin = start
    if begin > 0:
        print(f"{place}: {begin:,} poses before the first frame, {number}, are left out")
    if begin < 0:
        print(f"{place}: no pose of the first frame, {number}; none is needed, the poses begin with frame {numbers[0]}")
    files, numbers = ([files[0], *files], [number, *numbers]) if begin < 0 else (files[begin:], numbers[begin:])
    if len(files) < 2:
        raise InputError(f"{place}: {len(files)} pose; expected the first frame's and one more")
    gaps = len(find_clips(numbers[1:])) - 1
    if gaps:
        print(f"{place}: the numbers of its poses jump {gaps:,} times; they are taken as one sequence")
    return SequenceFiles(name, chosen, files, tuple(numbers))
