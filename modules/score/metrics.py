"""Scores. PSNR per frame with data range 1 on frames clipped to [0, 1]; the given first frame is never scored."""

import math

import torch
from torch import Tensor

from modules.data.pixels import frame_mse, to_float, to_uint8


def psnr(frames: Tensor, truth: Tensor) -> Tensor:
    """PSNR of every frame in dB, `10 log10(1 / mse)`: (…, 3, H, W) twice, uint8 or float -> (…). inf where equal."""
    return -10 * torch.log10(frame_mse(to_float(frames).clamp(0, 1), truth).double())


def psnr_2023(frame_psnr: Tensor) -> float:
    """The 2023 template Tester's figure: the sum over a sequence's 629 predicted frames divided by 628."""
    return float(frame_psnr.sum()) / (len(frame_psnr) - 1)


def psnr_kaggle(predicted: list[Tensor], truth: list[Tensor]) -> dict[str, float]:
    """The 2024/25 Kaggle scores: 8-bit pixels, range 255, frames 1 … 600 (0-based) of every sequence.

    predicted, truth: per sequence (T, 3, H, W), frame 0 included. public: sequences 0-2; private: the others (nan
    without any).
    """
    scores = [
        -10 * torch.log10((to_uint8(p).double() - to_uint8(t).double()).square().mean(dim=(-3, -2, -1)) / 255**2)[1:601]
        for p, t in zip(predicted, truth, strict=True)
    ]
    return {
        "public": float(torch.cat(scores[:3]).mean()) if scores[:3] else math.nan,
        "private": float(torch.cat(scores[3:]).mean()) if scores[3:] else math.nan,
    }


def first_frame_psnr(truth: Tensor) -> float:
    """The trivial baseline that a model must beat: the first frame repeated. truth: (T, 3, H, W)."""
    return float(psnr(truth[:1].expand_as(truth[1:]), truth[1:]).mean())
