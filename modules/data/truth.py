"""Find and read the true frames of test sequences, in the two forms of the course.

test/test_gt/<i>/*.png; Demo_Test/GT<i>.csv (numbers in [0, 1] between white space, T x 3 x H x W).
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modules.data.image_cache import cached_images, default_cache_dir
from modules.data.layout import truth_places
from modules.data.pairing import one_sequence
from modules.data.sequence import Sequence
from modules.runtime import InputError


def find_truth(
    root: str, given: str | None, sequences: list[Sequence], cache_dir: str | None = None, workers: int = 1
) -> list[Tensor | None]:
    """True frames of every sequence, (T, 3, H, W), the first frame included; None where there are none.

    given: --gt, a folder. Otherwise `<root>/test/test_gt`, then Demo_Test beside the data set or in the
    working directory. cache_dir: for decoded images; workers: threads that decode.
    """
    cache = Path(cache_dir) if cache_dir else default_cache_dir()
    for folder in truth_places(root) if given is None else [Path(given)]:
        truth = []
        for sequence in sequences:
            path, images = folder / f"GT{sequence.name}.csv", folder / sequence.name
            if images.is_dir():
                truth.append(read_images(images, sequence, cache, workers))
            else:
                truth.append(read_numbers(path, sequence.poses.shape) if path.is_file() else None)
        if any(frames is not None for frames in truth):
            return truth
    if given is not None:
        raise InputError(f"--gt {given}: holds neither <i>/*.png nor GT<i>.csv of a test sequence")
    return [None] * len(sequences)


def read_images(folder: Path, sequence: Sequence, cache: Path, workers: int) -> Tensor:
    """True frames from images, each paired with the pose of its number; the given frame may be missing."""
    files, T, numbers = one_sequence(folder), len(sequence.poses), sequence.numbers
    missing = [number for number in numbers[1:] if number not in files]
    if missing:
        raise InputError(f"{folder}: {len(files)} true frames, {len(missing)} poses have none (number {missing[0]} …); "
                         f"expected {T}, one per pose, with the poses' numbers")
    paths = [files[number] for number in numbers if number in files]
    name, size = f"{folder.parent.name}/{folder.name}", sequence.poses.shape[2:]
    images, broken = cached_images(paths, *size, cache, workers, name)
    if broken:
        place, reason = min(broken.items())
        raise InputError(f"{paths[place]}: {reason} ({len(broken):,} such files); expected true frames")
    frames = torch.from_numpy(images)
    return frames if len(frames) == T else torch.cat([sequence.frames[:1], frames])  # the given frame is never scored


def read_numbers(path: Path, shape: tuple[int, ...]) -> Tensor:
    """A text file of numbers in [0, 1] as float32 of this shape."""
    expected = f"expected {' x '.join(map(str, shape))} numbers in [0, 1]"
    try:
        values = np.array(path.read_text(encoding="utf-8").split(), dtype=np.float32)
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: {error}; {expected}") from None
    if values.size != np.prod(shape):
        raise InputError(f"{path}: {values.size:,} numbers; {expected}")
    if not ((values >= -1e-6) & (values <= 1 + 1e-6)).all():  # nor nan
        raise InputError(f"{path}: values from {values.min()} to {values.max()}; {expected}")
    return torch.from_numpy(values.clip(0, 1).reshape(shape))
