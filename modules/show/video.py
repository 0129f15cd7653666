"""Animations that people look at."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from modules.data.pixels import to_uint8
from modules.files import write_bytes


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
    write_bytes(path, buffer.getvalue())


def save_shared_palette_gif(path: Path, images, frames_per_second: float = 20) -> None:
    """Write images (height, width, 3) uint8 as an endless GIF with one palette, from 16 of them.

    images: a sequence with `len` whose neighbours differ. Larger pictures become several times smaller files this way,
    as only what changes is stored.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, 16).round().astype(int))
    sample = np.concatenate([images[t].reshape(-1, 3) for t in chosen])
    colors, counts = np.unique(sample, axis=0, return_counts=True)
    common = colors[np.argsort(-counts)[:8]]  # kept exactly: paper, ink, borders
    # of the others each counts once, however large its area, so that a thin bright line keeps its own
    others = Image.fromarray(colors[None]).quantize(248, dither=Image.Dither.NONE).getpalette()[: 3 * 248]
    palette = Image.new("P", (1, 1))
    palette.putpalette([*common.ravel().tolist(), *others])
    pictures = (
        Image.fromarray(images[t]).quantize(palette=palette, dither=Image.Dither.NONE) for t in range(len(images))
    )
    buffer = io.BytesIO()
    duration = round(1000 / frames_per_second)
    next(pictures).save(buffer, "GIF", save_all=True, append_images=pictures, duration=duration, loop=0)
    write_bytes(path, buffer.getvalue())
