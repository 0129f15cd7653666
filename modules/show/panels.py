"""Panels that people look at: truth | pose | prediction | error side by side, and a strip of moments. Arrays only.

As in the field's papers (Denton & Fergus 2018; Lee et al. 2018) a green border marks the given frame, a red one the
generated frames. The error is the mean absolute difference over the channels, on a fixed scale.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

SCALE, STRIP_SCALE, WIDEST = 4, 2, 512  # magnification of the panels and of the strip; px that a picture may fill
BORDER, LINE = 4, 20  # px: coloured border, line of text
GREEN, RED = (0, 158, 115), (213, 94, 0)  # Okabe & Ito's, told apart by colour-blind readers too
PAPER = (255, 255, 255)
ERROR_FULL = 0.25  # mean absolute error at the bright end of the heat map, of a range of 1
MOMENTS = 10
# black, violet, red, orange, pale yellow: brighter is always more, as in matplotlib's inferno
STOPS = ((0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85), (227, 89, 51), (249, 140, 10),
         (249, 201, 50), (252, 255, 164))
HEAT = np.stack([np.interp(np.linspace(0, len(STOPS) - 1, 256), range(len(STOPS)), channel)
                 for channel in zip(*STOPS, strict=True)], axis=1).round().astype(np.uint8)
# films store brightness (16 … 235) and two differences of colour (16 … 240), ITU-R BT.601: rows; of red, green and blue
YUV = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]], np.float32) / 255
YUV_ZERO = np.array([[16], [128], [128]], np.float32)


class Film(NamedTuple):
    """What the pictures of one sequence are made of."""

    name: str
    prediction: np.ndarray  # (T, H, W, 3) uint8, the given frame first
    pose: np.ndarray  # the same
    truth: np.ndarray | None = None  # the same, where the true frames are known
    psnr: list[float] | None = None  # (T-1) dB of frames 2, 3, …, with truth


def error_map(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Heat map of every frame: (T, H, W, 3) uint8 twice -> the same, black at 0, yellow at ERROR_FULL and above."""
    error = np.abs(prediction.astype(np.int16) - truth).sum(axis=-1)  # 0 … 3 * 255
    colors = HEAT[np.minimum(np.arange(3 * 255 + 1) / (3 * ERROR_FULL), 255).round().astype(np.uint8)]
    return colors[error]


def to_yuv(images: np.ndarray) -> np.ndarray:
    """(…, 3) uint8 of red, green and blue -> (3, …) uint8 of what films store."""
    colors = images.reshape(-1, 3).T.astype(np.float32)
    return (YUV @ colors + (YUV_ZERO + 0.5)).astype(np.uint8).reshape(3, *images.shape[:-1])


GREY_LUMA = to_yuv(np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1))[0]


class Panels:
    """The panels of one film: `panels[t]` is frame t (0-based) as (height, width, 3) uint8, both sides even.

    Without truth a panel shows pose | prediction.
    """

    def __init__(self, film: Film, scale: int = SCALE):
        self.columns = {"pose": film.pose, "prediction": film.prediction}
        if film.truth is not None:
            self.columns = {"truth": film.truth, **self.columns, "error": error_map(film.prediction, film.truth)}
        self.psnr = None if film.psnr is None else [np.inf, *film.psnr]
        height, width = film.prediction.shape[1:3]
        self.scale = max(1, min(scale, WIDEST // width))
        self.large = (height * self.scale, width * self.scale)
        self.cell = tuple(side + side % 2 + 2 * BORDER for side in self.large)

    def __len__(self) -> int:
        return len(self.columns["prediction"])

    def __getitem__(self, t: int) -> np.ndarray:
        panel = self.blank[t > 0].copy()
        cells = panel[LINE : LINE + self.cell[0]].reshape(self.cell[0], len(self.columns), self.cell[1], 3)
        self._fill(cells, np.stack([pictures[t] for pictures in self.columns.values()], axis=1))
        write_text(panel[LINE + self.cell[0] :], BORDER, self._caption(t))
        return panel

    def __iter__(self):
        return (self[t] for t in range(len(self)))

    def planes(self) -> Iterator[np.ndarray]:
        """The same as films store it, in a third of the time: (height * 3 / 2, width) uint8, first the brightness, then
        the differences of colour, at half the height and width. Each takes the place of the one before."""
        height, width = self.blank[0].shape[:2]
        frame = np.empty((height * 3 // 2, width), np.uint8)
        planes = [frame[:height], *frame[height:].reshape(2, height // 2, width // 2)]
        for t in range(len(self)):
            if t < 2:
                for plane, blank, step in zip(planes, to_yuv(self.blank[t]), (1, 2, 2), strict=True):
                    plane[:] = blank[::step, ::step]
            pictures = to_yuv(np.stack([pictures[t] for pictures in self.columns.values()], axis=1))
            for plane, picture, step in zip(planes, pictures, (1, 2, 2), strict=True):
                rows = plane[LINE // step : (LINE + self.cell[0]) // step]
                self._fill(rows.reshape(len(rows), len(self.columns), -1), picture, step)
            caption = self.blank[t > 0][LINE + self.cell[0] :, :, :1].copy()  # black on white: no colour in it
            write_text(caption, BORDER, self._caption(t))
            planes[0][LINE + self.cell[0] :] = GREY_LUMA[caption[..., 0]]
            yield frame

    def _fill(self, cells: np.ndarray, pictures: np.ndarray, step: int = 1) -> None:
        """Magnify pictures (H, columns, W, …) into their cells, of which every step-th pixel is there."""
        rows, columns = (np.arange(0, side, step) // self.scale for side in self.large)
        pictures = pictures.take(columns, axis=2).take(rows, axis=0)
        top = BORDER // step
        cells[top : top + len(pictures), :, top : top + pictures.shape[2]] = pictures

    @functools.cached_property
    def blank(self) -> list[np.ndarray]:
        """What is alike in all panels: of the given frame, of the generated ones."""
        width = len(self.columns) * self.cell[1]
        blanks = []
        for t in (0, 1):
            rows = [blank_line(width), np.concatenate([self._frame(name, t) for name in self.columns], axis=1),
                    blank_line(width)]
            for i, name in enumerate(self.columns):
                write_text(rows[0], i * self.cell[1] + BORDER, name)
            if self.psnr:
                write_text(rows[2], (len(self.columns) - 2) * self.cell[1] + BORDER, error_legend())
            blanks.append(np.concatenate(rows))
        return blanks

    def strip(self, moments: int = MOMENTS) -> np.ndarray:
        """Evenly spaced moments from left to right, the first and the last frame included, a row per column."""
        chosen = np.unique(np.linspace(0, len(self) - 1, moments).round().astype(int))
        rows = []
        for name, pictures in self.columns.items():
            cells = [self._frame(name, t) for t in chosen]
            for cell, t in zip(cells, chosen, strict=True):
                self._fill(cell[:, None], pictures[t][:, None])
            rows.append(np.concatenate(cells, axis=1))
        above, below, scores = (blank_line(rows[0].shape[1]) for _ in range(3))
        write_text(above, BORDER, " / ".join(self.columns) + (f"    {error_legend()}" if self.psnr else ""))
        for i, t in enumerate(chosen):
            write_text(below, i * self.cell[1] + BORDER, f"frame {t + 1}")
            if self.psnr:
                write_text(scores, i * self.cell[1] + BORDER, "given" if t == 0 else f"{self.psnr[t]:.1f} dB")
        return np.concatenate([above, *rows, below, scores])

    def _frame(self, name: str, t: int) -> np.ndarray:
        """An empty cell inside its border; only the frames themselves have a coloured one."""
        color = {"truth": GREEN if t == 0 else PAPER, "prediction": GREEN if t == 0 else RED}.get(name, PAPER)
        return np.full((*self.cell, 3), color, np.uint8)

    def _caption(self, t: int) -> str:
        words = f"frame {t + 1} of {len(self)}"
        if t == 0:
            return words + ", given"
        return words + (f", PSNR {self.psnr[t]:.2f} dB" if self.psnr else "")


def error_legend() -> str:
    """The scale of the heat map in words."""
    return f"error: black 0, yellow {ERROR_FULL:g} or more"


def blank_line(width: int) -> np.ndarray:
    """A line for text: (LINE, width, 3) uint8."""
    return np.full((LINE, width, 3), PAPER, np.uint8)


def write_text(line: np.ndarray, left: int, words: str) -> None:
    """Black words into a blank line, from `left` (px); what does not fit is cut off."""
    for character in words:
        drawn = glyph(character)[:, : max(0, line.shape[1] - left)]
        line[:, left : left + drawn.shape[1]] = drawn[..., None]
        left += drawn.shape[1]


@functools.cache
def glyph(character: str) -> np.ndarray:
    """One character, black on white: (LINE, its width) uint8. Drawn once; captions of films are put together of it."""
    from PIL import Image, ImageDraw

    width = max(1, round(font().getlength(character)))
    image = Image.new("L", (width, LINE), 255)
    ImageDraw.Draw(image).text((0, LINE // 2), character, 0, font(), anchor="lm")
    return np.asarray(image)


@functools.cache
def font():
    from PIL import ImageFont

    return ImageFont.load_default(14)
