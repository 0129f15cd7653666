"""Animations that people look at."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from modules.checkpoint import write_atomically
from modules.pixels import to_uint8


def to_images(frames: Tensor) -> np.ndarray:
    """(T, 3, H, W) uint8 or float [0, 1] -> (T, H, W, 3) uint8; values outside are clipped, never wrapped."""
    return to_uint8(frames).permute(0, 2, 3, 1).cpu().numpy()


def save_gif(path: Path, frames: Tensor, frames_per_second: float = 20) -> None:
    """Write (T, 3, H, W) as an endless GIF of exactly T frames, each with its own palette of 256 colours."""
    pictures: list[Image.Image] = []
    for image in to_images(frames):
        picture = Image.fromarray(image).quantize(256, dither=Image.Dither.NONE)
        if pictures and picture.convert("RGB").tobytes() == pictures[-1].convert("RGB").tobytes():
            # Pillow merges equal neighbours into one longer frame: change one pixel's blue by one level
            palette = bytearray(picture.getpalette())
            blue = 3 * picture.getpixel((0, 0)) + 2
            palette[blue] ^= 1
            picture.putpalette(palette)
        pictures.append(picture)
    buffer = io.BytesIO()
    duration = round(1000 / frames_per_second)
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0)
    write_atomically(path, lambda file: file.write(buffer.getvalue()))
