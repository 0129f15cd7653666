"""GIFs, read back."""

import numpy as np
import torch
from conftest import noise_frames
from PIL import Image, ImageSequence

from modules.show.sequence import to_images
from modules.show.video import quantize, save_gif


def read_gif(path):
    with Image.open(path) as gif:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)])


def test_every_frame_is_kept_also_where_neighbours_are_equal(tmp_path):
    frames = noise_frames(9, 3, 8, 16)
    frames[3] = frames[4] = frames[2]
    save_gif(tmp_path / "a.gif", to_images(frames))
    shown = read_gif(tmp_path / "a.gif")
    assert shown.shape == (9, 8, 16, 3)
    difference = np.abs(shown.astype(int) - frames.permute(0, 2, 3, 1).numpy())
    assert difference.max() <= 1, "128 colours a frame fit into its palette; only the mark of equal frames may differ"


def test_values_outside_the_range_are_clipped_not_wrapped(tmp_path):
    frames = torch.stack([torch.full((3, 8, 8), -0.2), torch.full((3, 8, 8), 1.3), torch.full((3, 8, 8), 0.5)])
    save_gif(tmp_path / "a.gif", to_images(frames))
    assert [frame.max() for frame in read_gif(tmp_path / "a.gif")] == [0, 255, 128]


def test_gif_plays_endlessly_at_its_rate(tmp_path):
    save_gif(tmp_path / "a.gif", to_images(noise_frames(3, 3, 8, 8)), frames_per_second=25)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.info["duration"] == 40
        assert gif.info["loop"] == 0


def test_palettes_are_as_good_as_pillows():
    """Frames of many colours: smooth ones, as predictions are, of sides that are no power of two."""
    y, x, t = np.meshgrid(np.linspace(0, 1, 36), np.linspace(0, 1, 52), np.arange(3), indexing="ij")
    smooth = np.stack([np.sin(3 * x + t), np.cos(4 * y * x), 0.5 + 0.3 * np.sin(9 * y - t)], axis=-1)
    frames = ((smooth + 1) * 127.5).astype(np.uint8).transpose(2, 0, 1, 3)
    palettes, indices = quantize(frames)
    for palette, places, frame in zip(palettes, indices, frames, strict=True):
        pillow = Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE).convert("RGB")
        ours, theirs = (((shown - frame.astype(float)) ** 2).mean() for shown in (palette[places], np.asarray(pillow)))
        assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 256
        assert ours < 1.12 * theirs, "at most 0.5 dB below it"
