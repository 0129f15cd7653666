"""Read one image file as RGB uint8. Image files may come from anybody.

Pillow reads 8-bit images of every mode and 16-bit PNG: transparent pixels are laid over white, the EXIF orientation is
applied, and of an animation the first frame is taken. (torchvision's decoder can crash the process on a damaged file.)
"""

import contextlib
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from modules.runtime import InputError

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")  # Pillow's other readers are not tried, whatever the file's name
SUFFIXES = (".png", ".bmp", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".jpg", ".jpeg", ".jfif")
Image.MAX_IMAGE_PIXELS = 32_000_000  # Pillow refuses an image that claims more than twice as many
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # between one and two times


def read_image(path: Path, height: int | None = None, width: int | None = None) -> np.ndarray:
    """One image as (3, height, width) uint8 RGB, resized with PIL's antialiased bilinear filter; None: its own size.

    InputError where the file is no image that can be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe or a device might never end
            raise ValueError("not a file")
        with Image.open(path, formats=FORMATS) as image:
            if image.format == "PNG" and "16" in image.tile[0][3]:  # how its values are packed
                image = to_8_bits(image, path)
            elif image.mode.startswith(("I", "F")):
                raise ValueError("more than 8 bits a channel")
            with contextlib.suppress(Exception):  # damaged EXIF is no reason to refuse an image
                ImageOps.exif_transpose(image, in_place=True)
            size = (width or image.width, height or image.height)
            rgb = over_white(image).resize(size, Image.Resampling.BILINEAR)
    except Exception as error:  # damaged bytes make a decoder raise whatever they happen to mean
        reason = getattr(error, "strerror", None) or str(error).replace(repr(str(path)), "it")
        raise InputError(f"{path}: not a readable image ({reason:.200}); expected an 8-bit image or a PNG") from None
    return np.asarray(rgb).transpose(2, 0, 1)


def over_white(image: Image.Image) -> Image.Image:
    """An image as RGB, its transparent pixels over white."""
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def to_8_bits(image: Image.Image, path: Path) -> Image.Image:
    """A 16-bit PNG: values that all lie in 0..255 stay as they are; of others the high byte is taken."""
    packing, values = image.tile[0][3], np.asarray(image)
    if values.ndim == 2:
        values = values if values.max() <= 255 else values >> 8
    elif packing in ("RGB;16B", "RGBA;16B") and not values[..., :3].any():  # Pillow has taken the high bytes: all are 0
        with Image.open(path, formats=FORMATS) as image:
            image.tile = [(*image.tile[0][:3], f"{packing[:-1]}L")]  # in the other order it takes the low bytes
            values = np.asarray(image)
    return Image.fromarray(values.astype(np.uint8))
