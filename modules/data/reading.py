"""Read one image file as RGB uint8. Image files may come from anybody.

Pillow reads 8-bit images of every mode: transparent pixels are laid over white, the EXIF orientation is applied, and of
an animation the first frame is taken. Of 16-bit PNG all bits count. (torchvision reads those more simply, but a damaged
file can end the process: its decoder crashes.)
"""

import contextlib
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from modules.runtime import InputError

MAX_PIXELS = 64_000_000  # an image that claims more is refused before it is decoded
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")  # Pillow's other readers are not tried, whatever the file's name
SUFFIXES = (".png", ".bmp", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".jpg", ".jpeg", ".jfif")
TOPS = (255, 1023, 4095, 65535)  # the largest values of 8, 10, 12 and 16 bits
# Pillow keeps the high bytes of these packings; read as those, it gives the low ones (of LA: both, one after the other)
LOW_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "LA;16B": "RGBA"}
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is the limit here


def read_image(path: Path, height: int | None = None, width: int | None = None) -> np.ndarray:
    """One image as (3, height, width) uint8 RGB, resized with PIL's antialiased bilinear filter; None: its own size."""
    return read_scaled(path, height, width)[0]


def read_scaled(path: Path, height: int | None, width: int | None, top: int = 0) -> tuple[np.ndarray, int]:
    """One image as in `read_image`, and the value that became 255: 0 in 8-bit images, which are never scaled.

    In 16-bit PNG this is the largest value of the fewest bits that hold all values (so 0..255 stay as they are), or
    `top` if that is larger. InputError where the file is no image that can be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe or a device might never end
            raise InputError(f"{path}: not a file; expected an image")
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{path}: claims {image.width}x{image.height} pixels; expected at most {MAX_PIXELS:,}")
            deep = image.format == "PNG" and "16" in image.tile[0][3]  # its packing, I;16B or one of LOW_BYTES
            if deep:
                image, top = read_16_bits(image, path, top)
            elif image.mode.startswith(("I", "F")):
                raise InputError(f"{path}: has more than 8 bits a channel; expected an 8-bit image or a 16-bit PNG")
            with contextlib.suppress(Exception):  # damaged EXIF is no reason to refuse an image
                ImageOps.exif_transpose(image, in_place=True)
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            size = (width or image.width, height or image.height)
            rgb = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{path}: not a readable image (none of {', '.join(FORMATS)}); expected a PNG") from None
    except Exception as error:  # damaged bytes make a decoder raise whatever they happen to mean
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not Pillow's
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        raise InputError(f"{path}: not a readable image ({error!s:.200}); expected a PNG") from None
    return np.asarray(rgb).transpose(2, 0, 1), top if deep else 0


def read_16_bits(image: Image.Image, path: Path, top: int) -> tuple[Image.Image, int]:
    """A 16-bit PNG with its values 0..top as 0..255, and that top, which is at least the given one."""
    packing, colors, alpha = image.tile[0][3], np.asarray(image).astype(np.float64), None
    if packing in LOW_BYTES:
        with Image.open(path, formats=FORMATS) as other:
            other.tile = [(*other.tile[0][:3], LOW_BYTES[packing])]
            low = np.asarray(other)
        alpha = colors[..., 3:] if colors[..., 3:].any() else low[..., 3:]  # the latter: 0..255 in 16 bits
        colors = 256 * colors[..., :3] + (low[..., 1:2] if packing == "LA;16B" else low[..., :3])
    top = max(top, next(top for top in TOPS if colors.max() <= top))
    colors = np.rint(colors * (255 / top))
    return Image.fromarray((colors if alpha is None else np.dstack([colors, alpha])).astype(np.uint8)), top
