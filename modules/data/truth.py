"""Find and read the true frames of test sequences, in any of the forms that the course has used.

test/test_gt/<i>/*.png; Demo_Test/GT<i>.csv (2023: whitespace separated floats in [0, 1], T x 3 x H x W);
Kaggle's gt.csv (2024/25: a header, then a row of 8-bit pixels per frame, sequence after sequence).
"""

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modules.data.image_cache import cached_images, default_cache_dir
from modules.data.layout import truth_places
from modules.data.pairing import Faults, numbered_pictures
from modules.data.sequence import Sequence
from modules.runtime import InputError

MAX_CHARACTERS = 64  # of one number in a text file, the space after it included


def find_truth(
    root: str, given: str | None, sequences: list[Sequence], cache_dir: str | None = None, workers: int = 1
) -> list[Tensor | None]:
    """True frames of every sequence, (T, 3, H, W), the first frame included; None where there are none.

    given: --gt, a folder or gt.csv. Otherwise `<root>/test/test_gt`, then Demo_Test beside the data set or in the
    working directory. cache_dir: for decoded pictures; workers: threads that decode.
    """
    cache = Path(cache_dir) if cache_dir else default_cache_dir()

    def read(folder: Path) -> list[Tensor | None]:
        return [read_one(folder, sequence, cache, workers) for sequence in sequences]

    if given is not None:
        source = Path(given)
        if source.is_file():
            return read_kaggle(source, sequences)
        if not source.is_dir():
            raise InputError(f"--gt {source}: not found; expected a folder of <i>/*.png or GT<i>.csv, or gt.csv")
        truth = read(source)
        if all(frames is None for frames in truth):
            raise InputError(f"--gt {source}: holds neither <i>/*.png nor GT<i>.csv for any test sequence")
        return truth
    for folder in truth_places(root):
        truth = read(folder)
        if any(frames is not None for frames in truth):
            return truth
    return [None] * len(sequences)


def read_one(folder: Path, sequence: Sequence, cache: Path, workers: int) -> Tensor | None:
    """One sequence's truth from `folder`, or None if it isn't there."""
    T, _, height, width = sequence.poses.shape
    if os.path.isdir(folder / sequence.name):
        return read_pictures(folder / sequence.name, sequence, cache, workers)
    path = folder / f"GT{sequence.name}.csv"
    if not os.path.isfile(path):
        return None
    check_size(path, sequence.poses.numel())
    try:
        values = np.array(path.read_text(encoding="utf-8").split(), dtype=np.float32)
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: {error}; expected whitespace separated numbers") from None
    if values.size != sequence.poses.numel():
        raise InputError(f"{path}: {values.size:,} numbers; expected {T} x 3 x {height} x {width}")
    if not np.isfinite(values).all() or values.min() < -1e-6 or values.max() > 1 + 1e-6:
        raise InputError(f"{path}: values from {values.min()} to {values.max()}; expected numbers in [0, 1]")
    return torch.from_numpy(values.reshape(tuple(sequence.poses.shape)).clip(0, 1))


def read_pictures(folder: Path, sequence: Sequence, cache: Path, workers: int) -> Tensor:
    """True frames from pictures, each paired with the pose of its number; the given frame may be missing."""
    faults = Faults()
    files = numbered_pictures(folder, faults)
    if faults:
        raise InputError(f"{faults}; expected one picture per frame number, frame000000.png, …")
    T, numbers = len(sequence.poses), sequence.numbers
    if numbers and not set(numbers) & set(files) and len(files) == T:
        print(f"{folder}: true frames {min(files)} to {max(files)}, poses {numbers[0]} to {numbers[-1]}: no number in "
              "common, paired in order")
    elif numbers:
        missing = [number for number in numbers[1:] if number not in files]
        if missing:
            raise InputError(
                f"{folder}: {len(files)} true frames, but {len(missing)} poses have none (number {missing[0]} …); "
                f"expected {T}, one per pose, with the poses' numbers"
            )
        if len(files) > T:
            print(f"{folder}: {len(files) - T} true frames without a pose are not used")
        files = {number: files[number] for number in numbers if number in files}
    elif len(files) != T:
        raise InputError(f"{folder}: {len(files)} true frames; expected {T}, one per pose")
    name = f"{folder.parent.name}/{folder.name}"
    pictures = cached_images(list(files.values()), *sequence.poses.shape[2:], cache, workers, name)
    frames = torch.from_numpy(np.array(pictures))
    return frames if len(frames) == T else torch.cat([sequence.frames[:1], frames])  # the given one, never scored


def check_size(path: Path, numbers: int) -> None:
    """InputError for a file too large for so many numbers, before it is read into memory."""
    if path.stat().st_size > MAX_CHARACTERS * numbers + 1_000_000:
        raise InputError(f"{path}: {path.stat().st_size:,} bytes; expected {numbers:,} numbers")


def read_kaggle(path: Path, sequences: list[Sequence]) -> list[Tensor | None]:
    """All sequences from one gt.csv: header `id,0,1,…`, rows sequence-major then frame, pixels 0..255 as C, H, W."""
    shape = sequences[0].poses.shape[1:]
    lengths = [len(sequence.poses) for sequence in sequences]
    check_size(path, sum(lengths) * (1 + shape.numel()))
    try:
        with warnings.catch_warnings():  # of an empty file; the shape tells
            warnings.simplefilter("ignore")
            rows = np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.float32, ndmin=2)
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: {error}; expected the header id,0,1,… and rows of pixels 0..255") from None
    if rows.shape != (sum(lengths), 1 + shape.numel()):
        raise InputError(
            f"{path}: {rows.shape[0]} rows of {rows.shape[1]} columns; expected {sum(lengths)} rows (one per pose) of "
            f"{1 + shape.numel()}"
        )
    pixels = rows[:, 1:]
    if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 255:
        raise InputError(f"{path}: values from {pixels.min()} to {pixels.max()}; expected pixels 0..255")
    frames = torch.from_numpy(pixels.round().astype(np.uint8).reshape(-1, *shape))
    return list(frames.split(lengths))
