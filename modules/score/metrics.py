"""Scores of predicted frames: METRICS is the table of what is measured. A new metric is one entry of it.

The values in metrics.json, their definitions and mean, the text table (baselines.py) and the table of the report page
follow from it. Frames are clipped to [0, 1]; the given first frame is never scored.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from modules.data.pixels import frame_mse, to_float, to_uint8

PERFECT = 100.0  # dB: one frame without any error must not make a whole mean infinite
SHOWN = (1, 10, 100, 300, 629)  # the k-th predicted frame
WINDOW, SIGMA = 11, 1.5  # px: SSIM's Gaussian window


class Prediction(NamedTuple):
    """What is scored, the given frame left out."""

    frames: Tensor  # (samples, T-1, 3, H, W) uint8 or float
    truth: Tensor  # (T-1, 3, H, W) uint8 or float
    psnr: Tensor  # (T-1) dB, the mean over the samples


class Metric(NamedTuple):
    """One metric of a sequence. Its value is a number, None, or a dict of numbers: then each has a cell."""

    title: str  # of its cells; {} stands for a key of the dict
    digits: int
    definition: str
    function: Callable[[Prediction], float | dict[str, float] | None]
    missing: str  # why it may be None
    parts: tuple[str, ...] = ()  # the keys of a dict


METRICS = {
    "psnr": Metric(
        "PSNR", 2, f"dB, range 1, at most {PERFECT:g} a frame, mean over the predicted frames and the samples",
        lambda p: float(p.psnr.mean()), "no number",
    ),
    "psnr_2023": Metric(
        "2023", 2, "the 2023 template's: the sum over the predicted frames divided by one frame less",
        lambda p: float(p.psnr.sum()) / (len(p.psnr) - 1) if len(p.psnr) > 1 else None, "a single predicted frame",
    ),
    "ssim": Metric(
        "SSIM", 4, f"Wang et al. 2004: Gaussian window {WINDOW} x {WINDOW}, sigma {SIGMA}, mirrored at the edges, "
        "range 1, RGB, mean over the predicted frames",
        lambda p: mean_ssim(p.frames, p.truth), f"frames smaller than its window of {WINDOW} pixels",
    ),
    "psnr_at": Metric(
        "@{}", 2, "PSNR of the k-th predicted frame",
        lambda p: {str(k): float(p.psnr[k - 1]) for k in SHOWN if k <= len(p.psnr)}, "no sequence is as long",
        tuple(map(str, SHOWN)),
    ),
    "change": Metric(
        "change", 2, "mean absolute difference of a predicted frame from the one before, levels of 0..255",
        lambda p: change(p.frames), "a single predicted frame",
    ),
    "change_ratio": Metric(
        "/ truth", 2, "change over the true frames' change: below 1 too smooth, above 1 it flickers",
        lambda p: change(p.frames) / true_change if (true_change := change(p.truth)) else None,
        "a single predicted frame, or a truth without motion",
    ),
    "diversity": Metric(
        "diversity", 2, "standard deviation over the samples, mean over predicted frames and values, levels of 0..255",
        lambda p: diversity(p.frames), "one prediction a sequence; see --num_samples",
    ),
}
DEFINITIONS = {key: metric.definition for key, metric in METRICS.items()} | {
    "psnr_kaggle": "2024/25: 8-bit pixels, range 255, frames 1 to 600; public: sequences 0-2, private: the others"
}


class Cell(NamedTuple):
    """One column of a printed table."""

    title: str
    key: str  # of METRICS
    part: str | None  # a key of the value, if that is a dict

    def value(self, row: dict) -> float | None:
        """The cell's number in the scores of one sequence."""
        value = row.get(self.key)
        return (value or {}).get(self.part) if self.part else value

    def text(self, row: dict, missing: str = "-") -> str:
        value = self.value(row)
        return missing if value is None else f"{value:.{METRICS[self.key].digits}f}"


def table_cells(rows: list[dict]) -> tuple[list[Cell], str]:
    """The columns in which some row has a number, and one line that names the others; "" if there are none."""
    cells = [Cell(metric.title.format(part), key, part) for key, metric in METRICS.items()
             for part in metric.parts or (None,)]
    empty = [cell for cell in cells if all(cell.value(row) is None for row in rows)]
    reasons = {}
    for cell in empty:
        reasons.setdefault(METRICS[cell.key].missing, []).append(cell.title)
    left_out = "; ".join(f"{', '.join(titles)} ({reason})" for reason, titles in reasons.items())
    return [cell for cell in cells if cell not in empty], left_out and f"Left out: {left_out}."


def all_scores(predicted: Tensor, truth: Tensor) -> dict:
    """Every metric of one sequence. predicted (samples, T, 3, H, W), truth (T, 3, H, W), both with the given frame."""
    prediction = Prediction(predicted[:, 1:], truth[1:], score(predicted, truth).mean(dim=0))
    return {key: metric.function(prediction) for key, metric in METRICS.items()}


def average(rows: list[dict]) -> dict:
    """The mean of several sequences' scores, over those that have a number."""

    def mean(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    means = {}
    for key, metric in METRICS.items():
        values = [row.get(key) for row in rows]
        if metric.parts:
            parts = {part: mean([(value or {}).get(part) for value in values]) for part in metric.parts}
            means[key] = {part: value for part, value in parts.items() if value is not None}
        else:
            means[key] = mean(values)
    return means


def psnr(frames: Tensor, truth: Tensor) -> Tensor:
    """PSNR of every frame in dB, `10 log10(1 / mse)`: (…, 3, H, W) twice, uint8 or float -> (…). inf where equal."""
    return -10 * torch.log10(frame_mse(to_float(frames).clamp(0, 1), truth).double())


def score(predicted: Tensor, truth: Tensor) -> Tensor:
    """PSNR in dB of the predicted frames, at most PERFECT: (samples, T, 3, H, W) and (T, 3, H, W) -> (samples, T-1)."""
    return psnr(predicted[:, 1:], truth[None, 1:]).clamp(max=PERFECT)


def psnr_kaggle(predicted: list[Tensor], truth: list[Tensor | None]) -> dict[str, float]:
    """The 2024/25 Kaggle scores: 8-bit pixels, range 255, frames 1 … 600 (0-based) of every sequence.

    predicted, truth: per sequence (T, 3, H, W), frame 0 included; truth: None where it is not known. public: sequences
    0-2; private: the others; nan without true frames.
    """
    groups = {"public": [], "private": []}
    for i, (p, t) in enumerate(zip(predicted, truth, strict=True)):
        if t is not None:
            groups["public" if i < 3 else "private"].append(score(to_uint8(p[:601])[None], to_uint8(t[:601]))[0])
    return {name: float(torch.cat(group).mean()) if group else math.nan for name, group in groups.items()}


def change(frames: Tensor) -> float | None:
    """See METRICS; None for a single frame. frames: (…, T-1, 3, H, W) predicted."""
    frames = to_float(frames).clamp(0, 1)
    return float(frames.diff(dim=-4).abs().mean() * 255) if frames.shape[-4] > 1 else None


def diversity(frames: Tensor) -> float | None:
    """See METRICS; None for a single sample. frames: (samples, T, 3, H, W) predicted."""
    return float(to_float(frames).clamp(0, 1).std(dim=0).mean() * 255) if len(frames) > 1 else None


def mean_ssim(predicted: Tensor, truth: Tensor) -> float | None:
    """See METRICS; None for frames smaller than the window. predicted: (samples, T, 3, H, W), truth: (T, 3, H, W)."""
    if min(truth.shape[-2:]) < WINDOW:
        return None
    parts = zip(predicted.split(64, dim=1), truth.split(64), strict=True)  # of 64 frames: less memory
    return float(torch.cat([ssim(frames, true_frames) for frames, true_frames in parts], dim=1).mean())


def ssim(frames: Tensor, truth: Tensor) -> Tensor:
    """SSIM of every frame, the mean over its pixels and channels: (…, 3, H, W) twice, uint8 or float -> (…)."""
    x, y = to_float(frames).clamp(0, 1), to_float(truth)
    down, across = gaussian_matrix(x.shape[-2]), gaussian_matrix(x.shape[-1]).T
    mean_x, mean_y, squares, product = (down @ (maps @ across) for maps in (x, y, x * x + y * y, x * y))
    means, c1, c2 = mean_x * mean_y, 0.01**2, 0.03**2
    mean_squares = mean_x * mean_x + mean_y * mean_y
    similarity = (2 * means + c1) * (2 * (product - means) + c2)
    return (similarity / ((mean_squares + c1) * (squares - mean_squares + c2))).mean(dim=(-3, -2, -1))


@functools.cache
def gaussian_matrix(length: int) -> Tensor:
    """The Gaussian means along a side of `length` pixels, mirrored at its ends, as a matrix: (length, length)."""
    offsets = torch.arange(WINDOW) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    places = (torch.arange(length)[:, None] + offsets).abs()
    places = torch.where(places < length, places, 2 * (length - 1) - places)
    return torch.zeros(length, length).scatter_add_(1, places, (weights / weights.sum()).expand(length, -1))
