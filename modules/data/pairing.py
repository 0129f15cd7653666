"""Which pictures a folder holds, and what the numbers in their names say: pairs and cuts. No picture is opened.

A key is (group, number): the sub-folder that a picture lies in, "" where there is only one, and its frame number.
"""

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np

from modules.data.reading import SUFFIXES
from modules.runtime import InputError

MAX_DIGITS = 15  # of a frame number
NAMED = 3  # files that a message names of each fault
LEAST_RUN = 5  # frames in a row that make a clip of a numbering whose step is not the set's

Key = tuple[str, int]


class Faults:
    """Faults of files, collected so that one message tells all of them."""

    def __init__(self):
        self.files: dict[tuple[Path, str], list[tuple[Path, str]]] = {}  # by folder and kind of fault

    def add(self, path: Path, fault: str) -> None:
        """fault: its kind, and after " (" what is particular to this file."""
        kind, mark, detail = fault.partition(" (")
        self.files.setdefault((path.parent, kind), []).append((path, mark + detail))

    def __len__(self) -> int:
        return sum(map(len, self.files.values()))

    def __str__(self) -> str:
        parts = []
        for (folder, kind), files in self.files.items():
            if len(files) == 1:
                parts.append(f"{files[0][0]}: {kind}{files[0][1]}")
            else:
                names = ", ".join(path.name + detail for path, detail in files[:NAMED])
                parts.append(f"{folder}: {len(files):,} times {kind}: {names}{', …' if len(files) > NAMED else ''}")
        return "; ".join(parts)

    def settle(self, skip: bool, expected: str) -> None:
        """Raise InputError if there are any, or, with `skip`, say what is left out."""
        if self.files and not skip:
            flag = "--skip_bad leaves it out" if len(self) == 1 else "--skip_bad leaves them out"
            raise InputError(f"{self}; expected {expected}; {flag}")
        if self.files:
            print(f"--skip_bad leaves out {len(self):,}: {self}")


def visible(name: str) -> bool:
    return not name.startswith((".", "__"))  # .ipynb_checkpoints, ._frame1.png, __MACOSX


def subfolders(folder: Path, closed: list[Path] | None = None) -> list[Path]:
    """The folders in one folder, in natural order. One that can't be listed has none, and is noted in `closed`."""
    try:
        entries = [entry for entry in os.scandir(folder) if visible(entry.name)]
        return sorted((Path(entry.path) for entry in entries if entry.is_dir()), key=lambda path: natural(path.name))
    except OSError:
        if closed is not None:
            closed.append(folder)
        return []


def pictures_in(folder: Path) -> list[Path]:
    """Files with a picture's ending, hidden ones left out."""
    return [Path(entry.path) for entry in os.scandir(folder)
            if visible(entry.name) and entry.name.lower().endswith(SUFFIXES)]


def picture_groups(folder: Path) -> dict[str, list[Path]]:
    """The pictures in a folder, {"": …}; if there are none, those in the folders one level down, {name: …} if there are
    several of those. InputError if there are none either."""
    try:
        groups = {"": pictures_in(folder)}
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder}: folder not found; expected pictures frame000000.png, … in it") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror})") from None
    if not groups[""]:
        below = {path.name: pictures_in(path) for path in subfolders(folder)}
        groups = {name: files for name, files in below.items() if files}
        if len(groups) == 1:
            groups = {"": next(iter(groups.values()))}
    if not groups:
        others = sorted({Path(name).suffix.lower() for name in os.listdir(folder) if visible(name)} - {""})
        other = f" (but {', '.join(others[:5])})" if others else ""
        raise InputError(
            f"{folder}: no PNG pictures in it{other}; expected frame000000.png, frame000001.png, … (also "
            f"{', '.join(SUFFIXES[1:])})"
        )
    return groups


def frame_number(path: Path) -> int:
    """The last number in a file's name: frame000123.png -> 123."""
    digits = re.findall("[0-9]+", path.stem)
    if not digits or len(digits[-1]) > MAX_DIGITS:
        kind = "a number of too many digits" if digits else "a file name without a number"
        raise InputError(f"{path}: {kind}; expected names like frame000123.png")
    return int(digits[-1])


def natural(name: str) -> tuple:
    """A key to sort by: whole numbers first, by value; then text, the numbers in it by value."""
    if re.fullmatch("[0-9]+", name):
        return (0, int(name))
    return (1, *(int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", name))))


def by_number(groups: dict[str, list[Path]], faults: Faults) -> dict[Key, Path]:
    """Pictures by their key, in its order. Of several with one number the first by name is taken, PNG before others."""
    pictures: dict[Key, Path] = {}
    for group in sorted(groups, key=natural):
        numbered = []
        for path in groups[group]:
            try:
                numbered.append((frame_number(path), path))
            except InputError as error:
                faults.add(path, str(error).removeprefix(f"{path}: ").partition(";")[0])
        numbered.sort(key=lambda entry: (entry[0], entry[1].stem, SUFFIXES.index(entry[1].suffix.lower()), entry[1]))
        for number, path in numbered:
            first = pictures.setdefault((group, number), path)
            if first is not path:
                faults.add(path, f"has the same number as another (as {first.name})")
    return pictures


def numbered_pictures(folder: Path, faults: Faults) -> dict[int, Path]:
    """The pictures of one sequence by their number, in order."""
    groups = picture_groups(folder)
    if len(groups) > 1:
        raise InputError(f"{folder}: holds {len(groups)} folders of pictures; expected one sequence")
    return {number: path for (_, number), path in by_number(groups, faults).items()}


def list_images(folder: Path) -> list[Path]:
    """The pictures of one folder in the order of their numbers. InputError if there are none or a number repeats."""
    faults = Faults()
    files = numbered_pictures(folder, faults)
    if faults:
        raise InputError(f"{faults}; expected one picture per frame number, frame000000.png, …")
    return list(files.values())


def pair(frames: dict[Key, Path], poses: dict[Key, Path], faults: Faults) -> list[Key]:
    """The keys that have both a frame and a pose, in order."""
    for key, path in frames.items():
        if key not in poses:
            faults.add(path, "has no pose picture")
    for key, path in poses.items():
        if key not in frames:
            faults.add(path, "has no frame")
    return [key for key in frames if key in poses]


def find_clips(numbers: list[int]) -> list[tuple[int, int]]:
    """Cut sorted frame numbers into clips [begin, end): runs that go up by the step most common in the set.

    Frames that this step leaves alone are looked at again: LEAST_RUN or more in a row with another step in common are a
    clip of that step.
    """
    if len(numbers) < 2:
        return [(0, len(numbers))]
    steps = np.diff(numbers)
    common = Counter(steps.tolist()).most_common(1)[0][0]
    cuts = np.array([0, *(np.flatnonzero(steps != common) + 1).tolist(), len(numbers)])
    alone = np.diff(cuts).repeat(np.diff(cuts)) == 1  # of every frame
    clips, begin = [], 0
    while begin < len(numbers):
        end = begin + 1
        if alone[begin]:
            while end < len(numbers) and alone[end] and steps[end - 1] == steps[begin]:
                end += 1
            end = end if end - begin >= LEAST_RUN else begin + 1
        else:
            end = int(cuts[np.searchsorted(cuts, begin, side="right")])
        clips.append((begin, end))
        begin = end
    return clips


def sequence_start(first: list[int], poses: list[int]) -> tuple[int, int] | None:
    """Which of the numbers `first` is the first frame's, and at which of the sorted `poses` its sequence begins.

    The lowest that has a pose of its own (0 …), or that comes one step before the first pose (-1): a sequence whose
    first frame has no pose, which no model looks at. None if no number is either.
    """
    step = Counter(np.diff(poses).tolist()).most_common(1)[0][0] if len(poses) > 1 else 1
    places = {number: i for i, number in enumerate(poses)}
    for number in first:
        if number in places:
            return number, places[number]
        if number in (poses[0] - 1, poses[0] - step):
            return number, -1
    return None
