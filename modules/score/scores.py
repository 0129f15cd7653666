"""Scores that can be compared: of the model and, in the same table, of the trivial baselines.

PSNR    dB, range 1, per predicted frame, at most 100, then the mean over frames; with samples, over them too
2023    the 2023 template's figure: the same sum divided by one frame less
SSIM    Wang et al. 2004 by torchmetrics: Gaussian window 11 x 11, sigma 1.5, range 1, RGB, the mean over frames
diversity    standard deviation over the samples, the mean over predicted frames and values, in levels of 0..255
"""

import sys

import numpy as np
import torch
from torch import Tensor

from modules.data.pixels import to_float
from modules.score.baselines import ORACLES, RIVALS
from modules.score.metrics import psnr, psnr_2023

PERFECT = 100.0  # dB: one frame without any error must not make a whole mean infinite
SHOWN = (1, 10, 100, 300, 629)  # the k-th predicted frame
SSIM = {"sigma": 1.5, "kernel_size": 11, "data_range": 1.0}
DEFINITIONS = {
    "psnr": "dB, range 1, mean over the predicted frames (in baselines a perfect one counts as 100)",
    "psnr_2023": "the 2023 template's: the sum over the predicted frames divided by one frame less",
    "psnr_kaggle": "2024/25: 8-bit pixels, range 255, frames 1 to 600; public: sequences 0-2, private: the others",
    "psnr_at": "PSNR of the k-th predicted frame",
    "ssim": "torchmetrics, Gaussian window 11 x 11, sigma 1.5, range 1, RGB, mean over the predicted frames",
    "diversity": "standard deviation over the samples, mean over predicted frames and values, levels of 0..255",
}


def ssim(frames: Tensor, truth: Tensor) -> Tensor:
    """SSIM of every frame: (T, 3, H, W) twice, uint8 or float -> (T). nan for pictures smaller than the window."""
    frames, truth = to_float(frames).clamp(0, 1), to_float(truth).expand_as(frames)
    if min(frames.shape[-2:]) < SSIM["kernel_size"]:
        return torch.full((len(frames),), torch.nan)
    from torchmetrics.functional.image import structural_similarity_index_measure  # takes seconds to import

    chunks = zip(frames.split(64), truth.split(64), strict=True)  # float32, in parts: ten times faster, less memory
    return torch.cat([structural_similarity_index_measure(*pair, reduction="none", **SSIM).view(-1) for pair in chunks])


def all_scores(predicted: Tensor, truth: Tensor) -> dict:
    """Every score of one sequence. predicted (samples, T, 3, H, W), truth (T, 3, H, W), both with the given frame."""
    frame_psnr = psnr(predicted[:, 1:], truth[None, 1:]).clamp(max=PERFECT).mean(dim=0)
    return {
        "psnr": float(frame_psnr.mean()),
        "psnr_2023": psnr_2023(frame_psnr) if len(frame_psnr) > 1 else None,
        "ssim": float(torch.stack([ssim(frames[1:], truth[1:]).mean() for frames in predicted]).mean()),
        "psnr_at": {str(k): float(frame_psnr[k - 1]) for k in SHOWN if k <= len(frame_psnr)},
        "diversity": diversity(predicted),
    }


def diversity(predicted: Tensor) -> float | None:
    """How much samples differ, see the top; None for a single prediction. predicted: (samples, T, 3, H, W)."""
    return float(predicted[:, 1:].std(dim=0).mean() * 255) if len(predicted) > 1 else None


def average(rows: list[dict]) -> dict:
    """The mean of several sequences' scores, over those that have a number."""

    def mean(values: list) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    plain = {key: mean([row[key] for row in rows]) for key in ("psnr", "psnr_2023", "ssim", "diversity")}
    at = {str(k): mean([row["psnr_at"].get(str(k)) for row in rows]) for k in SHOWN}
    return plain | {"psnr_at": {k: value for k, value in at.items() if value is not None}}


def score_table(sequences: dict[str, dict[str, dict]]) -> str:
    """A table for people. sequences: name -> {"model": scores, baseline: scores, …}, every one as from all_scores."""
    names = {"model": "model", **RIVALS, **{key: f"{name} *" for key, name in ORACLES.items()}}
    table = dict(sequences)
    if len(table) > 1:
        methods = [key for key in names if all(key in rows for rows in sequences.values())]
        table["mean"] = {key: average([rows[key] for rows in sequences.values()]) for key in methods}
    head = f"{'sequence':<9} {'':<22} {'PSNR':>7} {'2023':>7} {'SSIM':>7}" + "".join(f"{f'@{k}':>7}" for k in SHOWN)
    lines = [head + f" {'diversity':>9}"]
    for sequence, rows in table.items():
        for i, key in enumerate(key for key in names if key in rows):
            row = rows[key]
            cells = [cell(row["psnr"], 2), cell(row["psnr_2023"], 2), cell(row["ssim"], 4)]
            cells += [cell(row["psnr_at"].get(str(k)), 2).removeprefix(" ") for k in SHOWN]
            lines.append(f"{sequence if i == 0 else '':<9} {names[key]:<22} {cells[0]} {cells[1]} {cells[2]}"
                         + "".join(f" {text}" for text in cells[3:]) + f"   {cell(row['diversity'], 2)}")
    lines += [
        "PSNR in dB; @k: of the k-th predicted frame; SSIM: Gaussian window 11 x 11, sigma 1.5, range 1; diversity: "
        "standard",
        "deviation over the samples in levels of 0..255. * sees the true frames: a line to compare with, not a rival.",
    ]
    return "\n".join(line.rstrip() for line in lines)


def cell(value: float | None, digits: int) -> str:
    """A number seven characters wide, or a dash."""
    return f"{'-':>7}" if value is None else f"{value:>7.{digits}f}"


def warn_if_below_baselines(sequences: dict[str, dict[str, dict]]) -> None:
    """One line on stderr for every sequence and trivial baseline that the model's mean PSNR doesn't reach."""
    for sequence, rows in sequences.items():
        for key, name in RIVALS.items():
            if key in rows and not rows["model"]["psnr"] >= rows[key]["psnr"]:
                model, baseline = rows["model"]["psnr"], rows[key]["psnr"]
                below = f"{model:.2f} dB is below {baseline:.2f} dB, a trivial baseline: {name}"
                print(f"warning: sequence {sequence}: {below}", file=sys.stderr)
