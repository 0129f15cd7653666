"""The range of images: files and caches hold uint8 0..255, models see float32 [0, 1]. Errors are on that range."""

import torch
from torch import Tensor


def to_float(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 [0, 1]; float tensors pass unchanged."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def to_uint8(images: Tensor) -> Tensor:
    """float to uint8: clipped to [0, 1], then rounded to the nearest of 256 levels (never wrapped)."""
    return images if images.dtype == torch.uint8 else (images.clamp(0, 1) * 255).round().to(torch.uint8)


def frame_mse(frames: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of every frame: (…, 3, H, W) twice -> (…), float32."""
    return (to_float(frames) - to_float(truth)).square().mean(dim=(-3, -2, -1))
