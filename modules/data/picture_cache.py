"""Decode and resize a list of pictures once, into a uint8 array on disk that later starts only map.

The file is keyed on everything it was made from (paths, sizes, modification times, H x W) and written atomically. A
lock lets one process decode while others that want the same pictures wait. Pictures may come from anybody.
"""

import hashlib
import math
import os
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from modules.files import lock_file
from modules.runtime import InputError

CACHE_VERSION = 1
MAX_PIXELS = 64_000_000  # a picture that claims more is refused before it is decoded
FORMATS = ("PNG", "JPEG")  # Pillow's other readers are not asked, whatever the file's name
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # refused here, by MAX_PIXELS


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/pose2video`, by default `~/.cache/pose2video`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pose2video"


def read_picture(path: Path, height: int, width: int) -> np.ndarray:
    """One picture as (3, height, width) uint8 RGB, resized with PIL's antialiased bilinear filter."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe or a device might never end
            raise InputError(f"{path}: not a file; expected a PNG")
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                size = f"{picture.width}x{picture.height}"
                raise InputError(f"{path}: claims {size} pixels; expected at most {MAX_PIXELS:,}")
            if picture.mode.startswith("I"):  # 16 bit grey: keep the high byte
                picture = Image.fromarray((np.asarray(picture, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8))
            rgb = picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    except InputError:
        raise
    except Exception as error:  # damaged bytes make a decoder raise whatever they happen to mean
        raise InputError(f"{path}: not a readable picture ({error!s:.200}); expected a PNG") from None
    return np.asarray(rgb).transpose(2, 0, 1)


def cache_key(files: list[Path], height: int, width: int) -> str:
    """Changes whenever a file, its size, its modification time, the list, or H x W does."""
    digest = hashlib.sha256(f"{CACHE_VERSION} {height} {width}".encode())
    for path in files:
        try:
            status = os.stat(path)
        except OSError as error:  # e.g. a link to nowhere
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        digest.update(f"\n{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:24]


def cached_pictures(files: list[Path], height: int, width: int, cache_dir: Path, workers: int, name: str) -> np.ndarray:
    """All pictures as one read-only memory-mapped array (len(files), 3, height, width) uint8."""
    path = Path(cache_dir) / f"{cache_key(files, height, width)}.npy"
    shape = (len(files), 3, height, width)
    cached = map_cached(path, shape)
    if cached is not None:
        return cached
    try:
        with lock_file(path.with_suffix(".lock"), wait=True):
            cached = map_cached(path, shape)  # another process may have made it meanwhile
            if cached is None:
                decode_all(files, path, shape, workers, name)
                cached = np.load(path, mmap_mode="r")
    except OSError as error:
        raise InputError(f"{path}: cannot write the picture cache ({error.strerror}); see --cache_dir") from None
    return cached


def map_cached(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The cached array, or None if it is not there or not whole."""
    try:
        cached = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return cached if cached.shape == shape and cached.dtype == np.uint8 else None


def decode_all(files: list[Path], path: Path, shape: tuple[int, ...], workers: int, name: str) -> None:
    """Write the array of all pictures to `path`: whole or not at all. The caller holds the lock."""
    temporary = path.with_suffix(".tmp")
    try:
        with open(temporary, "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            file.truncate(file.tell() + math.prod(shape))
            if hasattr(os, "posix_fallocate"):  # a disk that fills up under a memory map would end the process
                os.posix_fallocate(file.fileno(), 0, file.tell() + math.prod(shape))
        array = np.load(temporary, mmap_mode="r+")

        def decode(i: int) -> None:
            array[i] = read_picture(files[i], *shape[2:])

        with ThreadPoolExecutor(max(1, workers)) as pool:
            jobs = pool.map(decode, range(len(files)))
            few = len(files) < 500
            try:
                for _ in tqdm(jobs, total=len(files), desc=f"decode {name}", unit="picture", leave=False, disable=few):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        array.flush()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    size = f"{shape[2]}x{shape[3]}"
    print(f"Cached {len(files):,} pictures of {name} at {size}: {array.nbytes / 1e6:.1f} MB in {path}")
