"""Decode and resize a list of pictures once, into a uint8 array on disk that later starts only map.

The file is keyed on everything it was made from (paths, sizes, modification times, H x W) and written atomically.
"""

import hashlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from modules.runtime import InputError

CACHE_VERSION = 1
MAX_PIXELS = 64_000_000  # a picture that claims more is refused before it is decoded


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/pose2video`, by default `~/.cache/pose2video`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pose2video"


def read_picture(path: Path, height: int, width: int) -> np.ndarray:
    """One picture as (3, height, width) uint8 RGB, resized with PIL's antialiased bilinear filter."""
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                size = f"{picture.width}x{picture.height}"
                raise InputError(f"{path}: claims {size} pixels; expected at most {MAX_PIXELS:,}")
            if picture.mode.startswith("I"):  # 16 bit grey: keep the high byte
                picture = Image.fromarray((np.asarray(picture, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8))
            rgb = picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable picture ({error}); expected a PNG") from None
    return np.asarray(rgb).transpose(2, 0, 1)


def cache_key(files: list[Path], height: int, width: int) -> str:
    """Changes whenever a file, its size, its modification time, the list, or H x W does."""
    digest = hashlib.sha256(f"{CACHE_VERSION} {height} {width}".encode())
    for path in files:
        status = os.stat(path)
        digest.update(f"\n{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:24]


def cached_pictures(files: list[Path], height: int, width: int, cache_dir: Path, workers: int, name: str) -> np.ndarray:
    """All pictures as one read-only memory-mapped array (len(files), 3, height, width) uint8."""
    path = Path(cache_dir) / f"{cache_key(files, height, width)}.npy"
    shape = (len(files), 3, height, width)
    try:
        cached = np.load(path, mmap_mode="r")
        if cached.shape == shape and cached.dtype == np.uint8:
            return cached
    except (OSError, ValueError, EOFError):
        pass  # not there, or not whole: made anew below
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        os.close(handle)
    except OSError as error:
        raise InputError(f"{path.parent}: cannot write the picture cache ({error.strerror}); see --cache_dir") from None
    try:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)

        def decode(i: int) -> None:
            array[i] = read_picture(files[i], height, width)

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
    except OSError as error:
        raise InputError(f"{path}: cannot write the picture cache ({error.strerror}); see --cache_dir") from None
    finally:
        Path(temporary).unlink(missing_ok=True)
    print(f"Cached {len(files):,} pictures of {name} at {height}x{width}: {array.nbytes / 1e6:.1f} MB in {path}")
    return np.load(path, mmap_mode="r")
