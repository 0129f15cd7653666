"""Find and read the true frames of test sequences, in any of the forms that the course has used.

test/test_gt/<i>/*.png; Demo_Test/GT<i>.csv (2023: whitespace separated floats in [0, 1], T x 3 x H x W);
Kaggle's gt.csv (2024/25: a header, then a row of 8-bit pixels per frame, sequence after sequence).
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataloader import Sequence, find_root, list_pictures
from modules.data.picture_cache import read_picture
from modules.runtime import InputError

MAX_CHARACTERS = 64  # of one number in a text file, the space after it included


def find_truth(root: str, given: str | None, sequences: list[Sequence]) -> list[Tensor | None]:
    """True frames of every sequence, (T, 3, H, W), the first frame included; None where there are none.

    given: --gt, a folder or gt.csv. Otherwise `<root>/test/test_gt`, then Demo_Test beside the data set or in the
    working directory.
    """
    if given is not None:
        source = Path(given)
        if source.is_file():
            return read_kaggle(source, sequences)
        if not source.is_dir():
            raise InputError(f"--gt {source}: not found; expected a folder of <i>/*.png or GT<i>.csv, or gt.csv")
        truth = [read_one(source, sequence) for sequence in sequences]
        if all(frames is None for frames in truth):
            raise InputError(f"--gt {source}: holds neither <i>/*.png nor GT<i>.csv for any test sequence")
        return truth
    data = find_root(root)
    folders = [data / "test" / "test_gt"]
    folders += [place / "Demo_Test" for place in (data, data.parent, Path(root).parent, Path.cwd())]
    for folder in folders:
        truth = [read_one(folder, sequence) for sequence in sequences]
        if any(frames is not None for frames in truth):
            return truth
    return [None] * len(sequences)


def read_one(folder: Path, sequence: Sequence) -> Tensor | None:
    """One sequence's truth from `folder`, or None if it isn't there."""
    T, _, height, width = sequence.poses.shape
    if (folder / sequence.name).is_dir():
        files = list_pictures(folder / sequence.name)
        if len(files) != T:
            raise InputError(f"{folder / sequence.name}: {len(files)} true frames; expected {T}, one per pose")
        return torch.from_numpy(np.stack([read_picture(path, height, width) for path in files]))
    path = folder / f"GT{sequence.name}.csv"
    if not path.is_file():
        return None
    check_size(path, sequence.poses.numel())
    try:
        values = np.array(path.read_text().split(), dtype=np.float32)
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: {error}; expected whitespace separated numbers") from None
    if values.size != sequence.poses.numel():
        raise InputError(f"{path}: {values.size:,} numbers; expected {T} x 3 x {height} x {width}")
    if not np.isfinite(values).all() or values.min() < -1e-6 or values.max() > 1 + 1e-6:
        raise InputError(f"{path}: values from {values.min()} to {values.max()}; expected numbers in [0, 1]")
    return torch.from_numpy(values.reshape(tuple(sequence.poses.shape)).clip(0, 1))


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
