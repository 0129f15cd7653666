"""Read one picture of any mode as RGB uint8, without losing what it shows. Pictures may come from anybody.

More than 8 bits a channel: scaled so that the fewest bits that hold the largest value become 0..255. Values 0..255
in a 16-bit file stay as they are. Transparent: laid on white, or on black if what is drawn is mostly white. Both are
decided for a whole list of pictures (`agree`), so that neighbours are read alike; a picture on its own decides alone.
8-bit channels are never scaled. EXIF orientation is applied. Of an animation the first frame is read.
"""

import contextlib
import os
import stat
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from modules.runtime import InputError

MAX_PIXELS = 64_000_000  # a picture that claims more is refused before it is decoded
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")  # Pillow's other readers are not asked, whatever the file's name
SUFFIXES = (".png", ".bmp", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".jpg", ".jpeg", ".jfif")
TOPS = (255, 1023, 4095, 65535, 2**24 - 1, 2**32)  # the largest values of 8, 10, 12, 16, 24 and 32 bits
VISIBLE = 8  # an alpha channel that stays below hides everything: it was not meant
WHITE, BLACK = 255, 0
# Pillow keeps the high bytes of these packings; read as those, it gives the low ones (of LA: both, one after the other)
LOW_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "LA;16B": "RGBA"}
ORIENTATION = 0x0112
TURNS = dict(enumerate((
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
), start=2))
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # refused here, by MAX_PIXELS


class Reading(NamedTuple):
    """How pictures beyond plain 8-bit colours are read."""

    top: float = TOPS[0]  # the value of more than 8 bits that becomes 255
    paper: int | None = None  # the grey level under transparent pixels; None: white, but any will do


def agree(wanted: Iterable[Reading]) -> Reading:
    """One way for a whole list: the largest top, and the paper that more pictures ask for."""
    wanted = list(wanted)
    papers = [reading.paper for reading in wanted if reading.paper is not None]
    paper = BLACK if papers.count(BLACK) > len(papers) / 2 else WHITE
    return Reading(max((reading.top for reading in wanted), default=TOPS[0]), paper)


def differ(own: Reading, reading: Reading) -> bool:
    """Whether a picture that was read as it wants itself must be read again to be like its list."""
    return own._replace(paper=WHITE if own.paper is None else own.paper) != reading


def read_image(
    path: Path, height: int | None = None, width: int | None = None, wanted: dict[Path, Reading] | None = None,
    reading: Reading | None = None
) -> np.ndarray:
    """One picture as (3, height, width) uint8 RGB, resized with PIL's antialiased bilinear filter; None: its own size.

    reading: as its list agreed; None: as it wants itself. What it wants is noted in `wanted`, if it is not plain.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe or a device might never end
            raise InputError(f"{path}: not a file; expected a picture")
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                size = f"{picture.width}x{picture.height}"
                raise InputError(f"{path}: claims {size} pixels (expected at most {MAX_PIXELS:,})")
            rgb = to_rgb(picture, path, {} if wanted is None else wanted, reading)
            turn = orientation(picture)
        if turn in TURNS:
            rgb = rgb.transpose(TURNS[turn])
        rgb = rgb.resize((width or rgb.width, height or rgb.height), Image.Resampling.BILINEAR)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{path}: not a readable picture (none of {', '.join(FORMATS)}); expected a PNG") from None
    except OSError as error:
        if error.errno is None:  # Pillow's own
            raise InputError(f"{path}: not a readable picture ({error!s:.200}); expected a PNG") from None
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # damaged bytes make a decoder raise whatever they happen to mean
        raise InputError(f"{path}: not a readable picture ({error!s:.200}); expected a PNG") from None
    return np.asarray(rgb).transpose(2, 0, 1)


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation 1..8; 1, upright, where there is none."""
    with contextlib.suppress(Exception):  # damaged EXIF is no reason to refuse a picture
        return picture.getexif().get(ORIENTATION, 1)
    return 1


def to_rgb(picture: Image.Image, path: Path, wanted: dict[Path, Reading], reading: Reading | None) -> Image.Image:
    """An RGB picture, by `reading` or by what the picture wants, which is noted in `wanted` if it is not plain."""
    if picture.mode == "P" and varies(picture) and not varies(picture.convert("RGBA").convert("RGB")):
        picture = Image.fromarray(np.asarray(picture))  # a palette of one colour: the numbers themselves are meant
    values = deep_values(picture, path)
    transparent = picture.mode in ("RGBA", "LA", "PA", "La", "RGBa")
    transparent |= picture.mode == "P" and "transparency" in picture.info
    if values is None and not transparent:
        return picture.convert("RGB")
    own = Reading()
    if values is None:
        rgba = picture.convert("RGBA")
        rgb = rgba.convert("RGB")
    else:
        own = own._replace(top=top_of(values))
        top = reading.top if reading else own.top
        scaled = np.rint(values * (255 / top)).clip(0, 255).astype(np.uint8)
        rgba, rgb = picture, Image.fromarray(scaled).convert("RGB")
    shown = not transparent
    if transparent:
        alpha = rgba.getchannel("A")
        low, high = alpha.getextrema()
        shown = low == 255 or (high < VISIBLE and varies(rgb))  # opaque, or it can't be meant
    if not shown:
        own = own._replace(paper=paper_for(rgb, alpha))
        paper = (reading or own).paper
        paper = WHITE if paper is None else paper
        rgb = Image.composite(rgb, Image.new("RGB", rgb.size, (paper,) * 3), alpha)
    if values is not None or not shown:
        wanted[path] = own
    return rgb


def deep_values(picture: Image.Image, path: Path) -> np.ndarray | None:
    """The values of a picture of more than 8 bits a channel, (h, w) or (h, w, 3) float64, without alpha; else None."""
    if picture.mode.startswith("I") or picture.mode == "F":
        return np.nan_to_num(np.asarray(picture, dtype=np.float64)).clip(0)
    packing = picture.tile[0][3] if picture.format == "PNG" and picture.tile else None
    if packing not in LOW_BYTES:
        return None
    high = np.asarray(picture, dtype=np.float64)[..., :3]
    with Image.open(path, formats=FORMATS) as other:
        other.tile = [(*other.tile[0][:3], LOW_BYTES[packing])]
        low = np.asarray(other)
    return 256 * high + (low[..., 1:2] if packing == "LA;16B" else low[..., :3])


def top_of(values: np.ndarray) -> float:
    """The largest value of the fewest bits that hold all values; 1 of fractions."""
    peak = values.max()
    if peak <= 1 and (values != values.round()).any():
        return 1
    return next((top for top in TOPS if peak <= top), peak)


def paper_for(rgb: Image.Image, alpha: Image.Image) -> int | None:
    """Black if more than half of what is drawn is white, else white; None if nothing is drawn."""
    drawn = np.asarray(rgb)[np.asarray(alpha) >= 128]
    if not len(drawn):
        return None
    return BLACK if (drawn.min(axis=1) >= 240).mean() > 0.5 else WHITE


def varies(picture: Image.Image) -> bool:
    """Whether any channel has more than one value."""
    return any(np.ptp(np.asarray(channel)) for channel in picture.split())
