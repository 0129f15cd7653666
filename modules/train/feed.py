"""Which frames each training step sees: a pure function of (seed, epoch), drawn for a whole epoch at once."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from modules.device import derive_seed


class Plan(NamedTuple):
    """An epoch of S steps on B clips of T frames."""

    windows: Tensor  # (S, B, T) int64, frame numbers in the data set; [..., 0] is x_1
    carried: Tensor  # (S, B) bool: the clip goes on from the frame that the step before generated last
    shifts: Tensor  # (S, B, 2) int64: all pictures of the clip are moved by so many pixels (down, right)


def template_plan(windows: Tensor, steps: int, batch: int) -> Plan:
    """The template's order: windows (n, T) one after the other, from the first again when they are used up."""
    order = windows[torch.arange(steps * batch) % len(windows)].reshape(steps, batch, -1)
    return Plan(order, torch.zeros(steps, batch, dtype=torch.bool), torch.zeros(steps, batch, 2, dtype=torch.long))


def shuffled_plan(
    clips: list[tuple[int, int]],
    T: int,
    steps: int,
    batch: int,
    seed: int,
    epoch: int,
    *,
    random_start: bool = False,
    persist: float = 0.0,
    shift: tuple[int, int] = (0, 0),
) -> Plan:
    """Windows that start anywhere in a clip [begin, end), each possible start once before any comes again.

    random_start: x_1 is drawn from anywhere in the clip, so that copying the last frame is no shortcut.
    persist: the chance that a clip goes on, in the next step, from its own last generated frame, x_1 and shift kept;
    half of the time with the poses that follow, else with poses from elsewhere in the clip. So the model is trained on
    frames that it has generated many times over, as in a long rollout, at the cost of a short one.
    shift: the largest shift in pixels (down, right).
    """
    rng = np.random.default_rng(derive_seed(seed, epoch))
    clips = [(begin, end) for begin, end in clips if end - begin >= T]
    starts = np.concatenate([np.arange(begin, end - T + 1) for begin, end in clips])
    bounds = np.concatenate([np.tile((begin, end), (end - begin - T + 1, 1)) for begin, end in clips])
    rounds = -(-steps * batch // len(starts))
    chosen = np.concatenate([rng.permutation(len(starts)) for _ in range(rounds)])[: steps * batch]
    start = starts[chosen].reshape(steps, batch)
    begin, end = bounds[chosen].reshape(steps, batch, 2).transpose(2, 0, 1).copy()
    first = rng.integers(begin, end) if random_start else start.copy()
    moved = rng.integers([-shift[0], -shift[1]], [shift[0] + 1, shift[1] + 1], (steps, batch, 2))
    carried, jumps, places = rng.random((3, steps, batch))
    carried, jumps = carried < persist, jumps < 0.5
    carried[0] = False
    for step in range(1, steps):
        for clip in np.flatnonzero(carried[step]):
            here, before = (step, clip), (step - 1, clip)
            for values in (begin, end, first, moved):
                values[here] = values[before]
            following = start[before] + T - 1
            if jumps[here] or following > end[here] - T:
                following = begin[here] + int(places[here] * (end[here] - T + 1 - begin[here]))
            start[here] = following
    windows = start[..., None] + np.arange(T)
    windows[..., 0] = first
    return Plan(torch.from_numpy(windows), torch.from_numpy(carried), torch.from_numpy(moved))


def gather(pictures: Tensor, windows: Tensor, shifts: Tensor) -> Tensor:
    """Clips (B, T, 3, H, W) uint8 of pictures (N, 3, H, W), moved by shifts (B, 2); edges are replicated."""
    H, W = pictures.shape[-2:]
    rows = (torch.arange(H, device=pictures.device) - shifts[:, :1]).clamp(0, H - 1)  # (B, H)
    columns = (torch.arange(W, device=pictures.device) - shifts[:, 1:]).clamp(0, W - 1)  # (B, W)
    clips = pictures[windows[:, :, None, None], :, rows[:, None, :, None], columns[:, None, None, :]]  # (B, T, H, W, 3)
    return clips.permute(0, 1, 4, 2, 3)


def erase_boxes(poses: Tensor, chance: float, draws: Tensor) -> Tensor:
    """Pose pictures (B, T, 3, H, W), a box made blank in `chance` of the clips: a detector misses limbs or people.

    draws: (B, 5) from U[0, 1): whether, height, width, top and left; a box of the largest sizes covers the picture.
    Blank is the colour of a picture's first pixel.
    """
    hit = draws[:, 0] < chance
    extent = (0.2 + 1.8 * draws[:, 1:3]).clamp(max=1)  # of the picture's height and width
    low = draws[:, 3:] * (1 - extent)
    rows, columns = (torch.arange(n, device=poses.device) / n for n in poses.shape[-2:])
    in_rows = (rows >= low[:, :1]) & (rows < low[:, :1] + extent[:, :1])  # (B, H)
    in_columns = (columns >= low[:, 1:]) & (columns < low[:, 1:] + extent[:, 1:])  # (B, W)
    box = hit[:, None, None] & in_rows[:, :, None] & in_columns[:, None, :]
    return torch.where(box[:, None, None], poses[..., :1, :1], poses)
