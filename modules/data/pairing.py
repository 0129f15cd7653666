"""Which images a folder holds, and what the numbers in their names say: pairs and cuts. No image is opened.

A key is (group, number): the subfolder that an image lies in, "" where there is only one, and its frame number.
"""

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np

from modules.data.reading import SUFFIXES
from modules.runtime import InputError

DIGITS = 15  # of a frame's number, at most: the last ones
NAMED = 3  # files that a message names of each fault
EXPECTED = "one image per frame number, frame000000.png, frame000001.png, …"

Key = tuple[str, int]


class Faults:
    """Faults of files, collected so that one message names all of them."""

    def __init__(self):
        self.files: dict[tuple[Path, str], list[str]] = {}  # by folder and kind: the first fault, then the files' names

    def add(self, path: Path, fault: str) -> None:
        """fault: its kind, and after " (" a detail, of which only the first is shown."""
        self.files.setdefault((path.parent, fault.partition(" (")[0]), [fault]).append(path.name)

    def __str__(self) -> str:
        parts = []
        for (folder, _), (fault, *names) in self.files.items():
            count = f", …: {len(names):,} times" if len(names) > NAMED else ":"
            parts.append(f"{folder / ', '.join(names[:NAMED])}{count} {fault}")
        return "; ".join(parts)

    def settle(self, skip: bool, expected: str) -> None:
        """Raise InputError if there are any, or, with `skip`, print what is left out."""
        if self.files and not skip:
            raise InputError(f"{self}; expected {expected}; --skip_bad leaves out such files")
        if self.files:
            print(f"--skip_bad leaves out {sum(len(names) for _, *names in self.files.values()):,}: {self}")


def visible(name: str) -> bool:
    return not name.startswith((".", "__"))  # .ipynb_checkpoints, ._frame1.png, __MACOSX


def subfolders(folder: Path) -> list[Path]:
    """The folders in one folder, sorted with the numbers in their names by value; none if it cannot be listed."""
    try:
        found = [Path(entry.path) for entry in os.scandir(folder) if visible(entry.name) and entry.is_dir()]
    except OSError:
        return []
    # split, every second part is a number: 9 before 10, walk2 before walk10
    return sorted(found, key=lambda path: [
        int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", path.name))])


def images_in(folder: Path) -> list[Path]:
    """Files with an image's suffix, hidden ones left out."""
    return [folder / name for name in sorted(os.listdir(folder)) if visible(name) and name.lower().endswith(SUFFIXES)]


def numbered_images(folder: Path, faults: Faults) -> dict[Key, Path]:
    """The images in a folder by their key, in its order; if there are none, those in the folders one level down.

    Of several images with one number the first by name is taken. InputError if there are no images.
    """
    try:
        groups = {"": images_in(folder)}
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); expected {EXPECTED}") from None
    if not groups[""]:
        below = {path.name: images_in(path) for path in subfolders(folder)}
        groups = {name: files for name, files in below.items() if files}
        groups = {"": next(iter(groups.values()))} if len(groups) == 1 else groups
    if not groups:
        raise InputError(f"{folder}: no images in it; expected {EXPECTED} (or {', '.join(SUFFIXES[1:])})")
    images: dict[Key, Path] = {}
    for group, files in groups.items():
        numbers, choice = frame_numbers([path.stem for path in files])
        if choice:
            print(f"{files[0].parent}/{choice}")
        for number, _, path in sorted((number, path.stem, path) for number, path in zip(numbers, files, strict=True)):
            if number < 0:
                faults.add(path, "a file name without a number")
            elif images.setdefault((group, number), path) is not path:
                faults.add(path, f"has the same number as another (as {images[group, number].name})")
    return images


def frame_numbers(names: list[str]) -> tuple[list[int], str]:
    """The frame number in each name of a folder, -1 where a name has none, and a line if there was a choice.

    It follows the same text in all names and is another one in each; of several such numbers the one whose values lie
    closest together, then the longest. Without one it is the last number of each name.
    """
    parts = [re.split("([0-9]+)", name) for name in names]  # every second part is a number
    numbered, found = [part for part in parts if len(part) > 1], {}
    for place in range(1, min(map(len, numbered), default=0), 2):
        values = {int(part[place][-DIGITS:]) for part in numbered}
        if len({tuple(part[:place:2]) for part in numbered}) == 1 and len(values) == len(numbered):
            found[place] = max(values) - min(values), -len(numbered[0][place])
    place = min(found, key=found.get, default=-2)
    numbers = [int(part[place][-DIGITS:]) if len(part) > 1 else -1 for part in parts]
    return numbers, f"{names[0]}: {numbers[0]} is taken for the frame's number" if len(found) > 1 < len(names) else ""


def one_sequence(folder: Path) -> dict[int, Path]:
    """The images of one sequence by their number, in order. InputError if there are none or a name is at fault."""
    faults = Faults()
    images = numbered_images(folder, faults)
    if len({group for group, _ in images}) > 1:
        raise InputError(f"{folder}: holds several folders of images; expected one sequence")
    if faults.files:
        raise InputError(f"{faults}; expected {EXPECTED}")
    return {number: path for (_, number), path in images.items()}


def find_clips(numbers: list[int]) -> list[tuple[int, int]]:
    """Cut sorted frame numbers into clips [begin, end): runs that rise by the step that is most common among them."""
    steps = np.diff(numbers)
    common = Counter(steps.tolist()).most_common(1)[0][0] if len(steps) else 1
    cuts = (np.flatnonzero(steps != common) + 1).tolist()
    return list(zip([0, *cuts], [*cuts, len(numbers)], strict=True))
