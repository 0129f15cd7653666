"""Decode and resize a list of images once, into an array on disk that later starts only map.

The cache has one array per folder and size. Beside each image its row holds a stamp of the file: rows whose stamp is
that of the file now are kept, the others are decoded into a new array, which then takes the place of the old one. A
process that has mapped the old array keeps it. A lock lets one process decode while others wait for its array.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from modules.data.reading import read_image
from modules.files import lock_file, move
from modules.progress import Progress
from modules.runtime import InputError

CACHE_VERSION = 4
Reasons = dict[int, str]  # why images cannot be read, by place in their list


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/pose2video`, else `~/.cache/pose2video`; in the temporary folder where that cannot be made."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pose2video"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no home
        folder = Path(tempfile.gettempdir()) / "pose2video"
    return folder


def cached_images(
    files: list[Path], height: int, width: int, cache_dir: Path, workers: int, name: str
) -> tuple[np.ndarray, Reasons]:
    """All images as one memory-mapped array (len(files), 3, height, width) uint8, and why images cannot be read, by
    place in the list: their rows are zeros. What is written into the array stays in this process."""
    folder = os.path.commonpath([file.absolute().parent for file in files])
    path = Path(cache_dir) / f"{digest(f'{CACHE_VERSION} {height} {width} {folder}')}.npy"
    row = np.dtype([("image", np.uint8, (3, height, width)), ("stamp", "S30")])
    stamps, faults = np.array([stamp(file) for file in files], "S30"), {}
    rows = load_rows(path, row, stamps)
    try:
        if rows is None:
            with lock_file(path.with_suffix(".lock"), wait=True):
                rows = load_rows(path, row, stamps)  # another process may have decoded meanwhile
                if rows is None:
                    faults = rebuild(path, row, files, stamps, workers, name)
                    rows = load_rows(path, row)
    except (OSError, InputError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot write the image cache ({reason}); see --cache_dir") from None
    return rows["image"], faults


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:30]


def stamp(path: Path) -> str:
    """A digest that changes whenever the file is changed or replaced."""
    try:
        status = os.stat(path)
    except OSError:  # a link to nowhere; reading it will tell
        return "gone"
    return digest(f"{path.absolute()}\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}")


def load_rows(path: Path, row: np.dtype, stamps: np.ndarray | None = None) -> np.ndarray | None:
    """The rows of an array on disk, copied on write; None if there is none of such rows and, if given, stamps."""
    try:
        rows = np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError):
        return None
    return rows if rows.dtype == row and (stamps is None or np.array_equal(rows["stamp"], stamps)) else None


def rebuild(path: Path, row: np.dtype, files: list[Path], stamps: np.ndarray, workers: int, name: str) -> Reasons:
    """Replace the array at `path` by one of these files: old rows that are current, all others decoded. Returns why
    images cannot be read, by place."""
    for leftover in path.parent.glob(f"{path.stem}.*.part"):  # of a process that was killed
        leftover.unlink(missing_ok=True)
    part, old = path.with_suffix(f".{secrets.token_hex(4)}.part"), load_rows(path, row)
    known = {} if old is None else {file_stamp: i for i, file_stamp in enumerate(old["stamp"])}
    missing = [i for i, file_stamp in enumerate(stamps) if file_stamp not in known]
    try:
        rows = np.lib.format.open_memmap(part, "w+", row, (len(files),))
        reserve(part)
        for i in set(range(len(files))).difference(missing):
            rows[i] = old[known[stamps[i]]]
        faults = decode(missing, files, rows, stamps, workers, name)
        del rows, old  # Windows moves no open file
        move(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return faults


def reserve(path: Path) -> None:
    """Allocate a file's space where the system can, so that a full disk is an error before the work begins."""
    try:
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
    except (OSError, AttributeError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):  # else space cannot be reserved here
            raise


def decode(
    places: list[int], files: list[Path], rows: np.ndarray, stamps: np.ndarray, workers: int, name: str
) -> Reasons:
    """Decode the images at these places into their rows, in threads. A stamp is written once its row is complete."""
    images, faults = rows["image"], {}

    def read(i: int) -> None:
        try:
            images[i] = read_image(files[i], *images.shape[2:])
            rows["stamp"][i] = stamps[i]
        except InputError as error:
            faults[i] = str(error).removeprefix(f"{files[i]}: ").partition("; expected")[0]

    threads = ThreadPoolExecutor(max(1, workers))
    with Progress(f"decode {name}", len(places), "image", leave=False) as bar, threads as pool:
        try:
            for _ in pool.map(read, places):
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if not faults:
        print(f"Cached {len(files):,} images of {name}, {images.size / 1e6:.1f} MB")
    return faults
