"""Panels for people: truth | pose | prediction | error side by side, and a strip of moments. Arrays only.

As in the field's papers (Denton & Fergus 2018; Lee et al. 2018) a green border marks the given frame, a red one the
generated frames. The error is the mean absolute difference over the channels, on a fixed scale.
"""

import functools
from typing import NamedTuple

import numpy as np

from modules.data.layout import FRAMES_PER_SECOND

SCALE, STRIP_SCALE, WIDEST = 4, 2, 512  # magnification of panels and strip; px that a magnified image may be wide
BORDER, LINE = 4, 20  # px: coloured border, line of text
GREEN, RED = (0, 158, 115), (213, 94, 0)  # Okabe & Ito's, which colour-blind readers can tell apart
PAPER = (255, 255, 255)
ERROR_FULL = 0.25  # mean absolute error at the bright end of the heat map, of a range of 1
ERROR_LEGEND = f"error: black 0, yellow {ERROR_FULL:g} or more"
MOMENTS = 10  # of a strip
# black, violet, red, orange, pale yellow: brighter is always more, as in matplotlib's inferno
STOPS = ((0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85), (227, 89, 51), (249, 140, 10),
         (249, 201, 50), (252, 255, 164))
HEAT = np.stack([np.interp(np.linspace(0, len(STOPS) - 1, 256), range(len(STOPS)), channel)
                 for channel in zip(*STOPS, strict=True)], axis=1).round().astype(np.uint8)


class PredictedSequence(NamedTuple):
    """What the images of one sequence are made of."""

    prediction: np.ndarray  # (T, H, W, 3) uint8, the given frame first
    pose: np.ndarray  # the same
    truth: np.ndarray | None = None  # the same, if the true frames are known
    psnr: list[float] | None = None  # (T-1) dB of frames 2, 3, …, with truth
    nearest: np.ndarray | None = None  # the same as prediction: the nearest training poses
    rate: float = FRAMES_PER_SECOND


def error_map(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Heat map of every frame: (T, H, W, 3) uint8 twice -> the same, black at 0, yellow at ERROR_FULL and above."""
    error = np.abs(prediction.astype(np.int16) - truth).sum(axis=-1)  # 0 … 3 * 255
    colors = HEAT[np.minimum(np.arange(3 * 255 + 1) / (3 * ERROR_FULL), 255).round().astype(np.uint8)]
    return colors[error]


class Panels:
    """The panels of one sequence: `panels[t]` is frame t (0-based) as (height, width, 3) uint8, both sides even.

    Without truth a panel shows pose | prediction.
    """

    def __init__(self, predicted: PredictedSequence, scale: int = SCALE):
        self.columns = {"pose": predicted.pose, "prediction": predicted.prediction}
        if predicted.truth is not None:
            error = error_map(predicted.prediction, predicted.truth)
            self.columns = {"truth": predicted.truth, **self.columns, "error": error}
        if predicted.nearest is not None:
            self.columns["nearest pose"] = predicted.nearest
        self.psnr = None if predicted.psnr is None else [np.inf, *predicted.psnr]
        height, width = predicted.prediction.shape[1:3]
        self.scale = max(1, min(scale, WIDEST // width))
        self.cell = tuple(side * self.scale + side * self.scale % 2 + 2 * BORDER for side in (height, width))

    def __len__(self) -> int:
        return len(self.columns["prediction"])

    def __getitem__(self, t: int) -> np.ndarray:
        caption = f"frame {t + 1} of {len(self)}" + (", given" if t == 0 else "")
        if self.psnr and t:
            caption += f", PSNR {self.psnr[t]:.2f} dB"
        below = [caption, "", ERROR_LEGEND, "", ""] if "error" in self.columns else [caption, ""]
        cells = np.concatenate([self.draw_cell(name, t) for name in self.columns], axis=1)
        return np.concatenate([self.draw_line(list(self.columns)), cells, self.draw_line(below[: len(self.columns)])])

    def __iter__(self):
        return (self[t] for t in range(len(self)))

    def strip(self, moments: int = MOMENTS) -> np.ndarray:
        """Evenly spaced moments from left to right, the first and the last frame included, a row per column."""
        chosen = np.unique(np.linspace(0, len(self) - 1, moments).round().astype(int))
        rows = [np.concatenate([self.draw_cell(name, t) for t in chosen], axis=1) for name in self.columns]
        title = " / ".join(self.columns) + (f"    {ERROR_LEGEND}" if "error" in self.columns else "")
        frames, scores = [f"frame {t + 1}" for t in chosen], [""] * len(chosen)
        if self.psnr:
            scores = ["given" if t == 0 else f"{self.psnr[t]:.1f} dB" for t in chosen]
        lines = [self.draw_line(labels) for labels in ([title] + [""] * (len(chosen) - 1), frames, scores)]
        return np.concatenate([lines[0], *rows, *lines[1:]])

    def draw_cell(self, name: str, t: int) -> np.ndarray:
        """A magnified image in its border. Only truth and prediction have a coloured border."""
        color = {"truth": GREEN if t == 0 else PAPER, "prediction": GREEN if t == 0 else RED}.get(name, PAPER)
        cell = np.full((*self.cell, 3), color, np.uint8)
        image = self.columns[name][t].repeat(self.scale, axis=0).repeat(self.scale, axis=1)
        cell[BORDER : BORDER + image.shape[0], BORDER : BORDER + image.shape[1]] = image
        return cell

    def draw_line(self, labels: list[str]) -> np.ndarray:
        """A line with a label for each cell, black on white. A label may be wider than its cell."""
        line = np.full((LINE, len(labels) * self.cell[1], 3), PAPER, np.uint8)
        for i, label in enumerate(labels):
            left = i * self.cell[1] + BORDER
            for character in label:
                drawn = glyph(character)[:, : max(0, line.shape[1] - left)]
                line[:, left : left + drawn.shape[1]] = drawn[..., None]
                left += drawn.shape[1]
        return line


@functools.cache
def glyph(character: str) -> np.ndarray:
    """One character, black on white: (LINE, its width) uint8. Each is drawn once: a caption per frame would be slow."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(14)
    width = max(1, round(font.getlength(character)))
    image = Image.new("L", (width, LINE), 255)
    ImageDraw.Draw(image).text((0, LINE // 2), character, 0, font, anchor="lm")
    return np.asarray(image)
