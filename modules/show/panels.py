"""Panels that people look at: truth | pose | prediction | error side by side, as MP4, GIF and a strip of moments.

As in the field's papers (Denton & Fergus 2018; Lee et al. 2018) a green border marks the given frame, a red one the
generated frames. The error is the mean absolute difference over the channels, on a fixed scale.
"""

import functools
import io
import sys
import tempfile
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from modules.data.pixels import to_float
from modules.files import write_bytes
from modules.score.metrics import psnr
from modules.show.video import save_shared_palette_gif, to_images

SCALE, STRIP_SCALE, WIDEST = 4, 2, 512  # magnification of the panels and of the strip; px that a picture may fill
BORDER, LINE = 4, 20  # px: coloured border, line of text
GREEN, RED = (0, 158, 115), (213, 94, 0)  # Okabe & Ito's, told apart by colour-blind readers too
PAPER, INK = (255, 255, 255), (0, 0, 0)
ERROR_FULL = 0.25  # mean absolute error at the bright end of the heat map, of a range of 1
HEAT = (colormaps["inferno"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
MOMENTS = 10


def error_map(predicted: Tensor, truth: Tensor) -> np.ndarray:
    """Heat map of every frame: (T, 3, H, W) twice -> (T, H, W, 3) uint8, black at 0, yellow at ERROR_FULL and above."""
    error = (to_float(predicted).clamp(0, 1) - to_float(truth)).abs().mean(dim=1).nan_to_num(1)
    return HEAT[(error / ERROR_FULL * 255).clamp(0, 255).round().long().cpu().numpy()]


class Panels:
    """The panels of one sequence: `panels[t]` is frame t (0-based) as (height, width, 3) uint8.

    predicted, poses, truth: (T, 3, H, W) uint8 or float [0, 1]; predicted[0] is the given frame. Without truth (None)
    a panel shows pose | prediction.
    """

    def __init__(self, predicted: Tensor, poses: Tensor, truth: Tensor | None, scale: int = SCALE):
        columns = {"pose": to_images(poses), "prediction": to_images(predicted)}
        self.psnr = None
        if truth is not None:
            columns = {"truth": to_images(truth), **columns, "error": error_map(predicted, truth)}
            self.psnr = psnr(predicted, truth).tolist()
        self.columns = columns
        height, width = predicted.shape[-2:]
        self.scale = max(1, min(scale, WIDEST // width))
        self.cell = (height * self.scale + 2 * BORDER, width * self.scale + 2 * BORDER)

    def __len__(self) -> int:
        return len(self.columns["prediction"])

    def __getitem__(self, t: int) -> np.ndarray:
        cells = [self._cell(name, t) for name in self.columns]
        top = text_line([(i * self.cell[1], name) for i, name in enumerate(self.columns)], len(cells) * self.cell[1])
        panel = np.concatenate([top, np.concatenate(cells, axis=1), self._caption(t)])
        return panel[: len(panel) // 2 * 2, : panel.shape[1] // 2 * 2]  # H.264 wants even sides

    def strip(self, moments: int = MOMENTS) -> np.ndarray:
        """Evenly spaced moments from left to right, the first and the last frame included, a row per column."""
        chosen = np.unique(np.linspace(0, len(self) - 1, moments).round().astype(int))
        rows = [np.concatenate([self._cell(name, t) for t in chosen], axis=1) for name in self.columns]
        width = rows[0].shape[1]
        below = text_line([(i * self.cell[1], f"frame {t + 1}") for i, t in enumerate(chosen)], width)
        scores = [(i * self.cell[1], "given" if t == 0 else f"{self.psnr[t]:.1f} dB") for i, t in enumerate(chosen)
                  if self.psnr]
        names = " / ".join(self.columns) + (f"    {error_legend()}" if self.psnr else "")
        return np.concatenate([text_line([(0, names)], width), *rows, below, text_line(scores, width)])

    def _cell(self, name: str, t: int) -> np.ndarray:
        """One magnified picture inside its border; only the frames themselves have a coloured one."""
        picture = self.columns[name][t].repeat(self.scale, axis=0).repeat(self.scale, axis=1)
        color = {"truth": GREEN if t == 0 else PAPER, "prediction": GREEN if t == 0 else RED}.get(name, PAPER)
        cell = np.empty((*self.cell, 3), np.uint8)
        cell[:] = color
        cell[BORDER:-BORDER, BORDER:-BORDER] = picture
        return cell

    def _caption(self, t: int) -> np.ndarray:
        words = f"frame {t + 1} of {len(self)}"
        if t == 0:
            words += ", given"
        elif self.psnr:
            words += f", PSNR {self.psnr[t]:.2f} dB"
        parts = [(0, words)] + ([((len(self.columns) - 2) * self.cell[1], error_legend())] if self.psnr else [])
        return text_line(parts, len(self.columns) * self.cell[1])


def error_legend() -> str:
    """The scale of the heat map in words."""
    return f"error: black 0, yellow {ERROR_FULL:g} or more"


@functools.cache
def font():
    return ImageFont.load_default(14)


def text_line(parts: list[tuple[int, str]], width: int) -> np.ndarray:
    """Words at their left edges (px): (LINE, width, 3) uint8."""
    line = Image.new("RGB", (width, LINE), PAPER)
    draw = ImageDraw.Draw(line)
    for left, words in parts:
        draw.text((left + BORDER, LINE // 2), words, INK, font(), anchor="lm")
    return np.asarray(line)


def save_mp4(path: Path, images, frames_per_second: float) -> None:
    """Write (height, width, 3) uint8 images as H.264. Where ffmpeg can't do it, one line on stderr and no file."""
    options = {"codec": "libx264", "pixelformat": "yuv420p", "quality": None, "macro_block_size": 2,
               "output_params": ["-crf", "18", "-preset", "veryfast"], "ffmpeg_log_level": "error"}
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        try:
            with imageio.get_writer(film, fps=frames_per_second, **options) as writer:
                for image in images:
                    writer.append_data(image)
        except (ImportError, RuntimeError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:100]
            print(f"warning: {path.name} is not written, see the GIF: no working ffmpeg ({reason})", file=sys.stderr)
            return
        write_bytes(path, film.read_bytes())


def write_panels(
    stem: Path, predicted: Tensor, poses: Tensor, truth: Tensor | None, movies: bool = True,
    frames_per_second: float = 20,
) -> None:
    """Write <stem>.png, a strip of 10 moments, and with `movies` <stem>.mp4 and <stem>.gif.

    predicted, poses, truth: (T, 3, H, W), see Panels.
    """
    strip = io.BytesIO()
    Image.fromarray(Panels(predicted, poses, truth, STRIP_SCALE).strip()).save(strip, "PNG")
    write_bytes(stem.with_name(stem.name + ".png"), strip.getvalue())
    if movies:
        panels = Panels(predicted, poses, truth)
        save_mp4(stem.with_name(stem.name + ".mp4"), panels, frames_per_second)
        save_shared_palette_gif(stem.with_name(stem.name + ".gif"), panels, frames_per_second)
