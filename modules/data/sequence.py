"""One sequence to predict or to score."""

from typing import NamedTuple

from torch import Tensor


class Sequence(NamedTuple):
    """Frames and poses in the order of time; all images are uint8."""

    name: str
    frames: Tensor  # (T, 3, H, W) in val; (1, 3, H, W), the first frame, in test
    poses: Tensor  # (T, 3, H, W); poses[0] belongs to the first frame
    numbers: tuple[int, ...] = ()  # T frame numbers, where they are known
