"""Decode and resize a list of pictures once, into a uint8 array on disk that later starts only map.

The file is keyed on everything it was made from (paths, sizes, modification times, H x W) and written atomically. A
lock lets one process decode while others that want the same pictures wait. Where some pictures cannot be read, or the
work is interrupted, the others are kept aside and are not decoded again.
"""

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np

from modules.data.pairing import Faults
from modules.data.reading import BLACK, Reading, agree, differ, read_image
from modules.files import lock_file
from modules.progress import Progress
from modules.runtime import InputError

CACHE_VERSION = 2
BATCH = 256  # pictures that threads decode before they are written
STALE = 3600  # seconds after which nobody writes to a temporary file any more


class UnreadableImages(InputError):
    """Pictures of a list that cannot be read. reasons: why, by path."""

    def __init__(self, reasons: dict[Path, str]):
        faults, self.reasons = Faults(), reasons
        self.add_to(faults)
        super().__init__(f"{faults}; expected PNG pictures")

    def add_to(self, faults: Faults) -> None:
        for path, reason in self.reasons.items():
            faults.add(path, reason.partition("; expected")[0])


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/pose2video`, by default `~/.cache/pose2video`; where that cannot be made, a folder for temporary
    files. Makes nothing and never fails."""
    try:
        place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pose2video"
        nearest = next(folder for folder in (place, *place.parents) if os.path.exists(folder))
        if os.path.isdir(nearest) and os.access(nearest, os.W_OK | os.X_OK):
            return place
        reason = f"{nearest} cannot be written to"
    except (OSError, RuntimeError, StopIteration):  # RuntimeError: no home
        reason = "there is no home folder"
    try:
        user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
        place = Path(tempfile.gettempdir()) / f"pose2video-{user}"
    except OSError:
        place = Path("pose2video-cache")
    say_once(f"{reason}: decoded pictures go to {place}; --cache_dir names another folder")
    return place


@functools.cache
def say_once(text: str) -> None:
    print(text, file=sys.stderr)


def stamp(path: Path) -> str:
    """Changes whenever the file, its size or its modification time does."""
    try:
        status = os.stat(path)
    except OSError:  # e.g. a link to nowhere; reading it will tell
        return digest(str(path.absolute()), "gone")
    return digest(f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}")


def digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode("utf-8", "surrogateescape")).hexdigest()[:24]


def cached_images(files: list[Path], height: int, width: int, cache_dir: Path, workers: int, name: str) -> np.ndarray:
    """All pictures as one read-only memory-mapped array (len(files), 3, height, width) uint8.

    Raises UnreadableImages, with all that cannot be read, once the others are decoded.
    """
    stamps = [stamp(path) for path in files]
    size = f"{CACHE_VERSION} {height} {width}"
    path = Path(cache_dir) / f"{digest(size, *stamps)}.npy"
    shape = (len(files), 3, height, width)
    cached = map_cached(path, shape)
    if cached is not None:
        return cached
    kept = path.with_name(f"{digest(size, str(files[0].parent.absolute()))}.kept")
    try:
        with lock_file(path.with_suffix(".lock"), wait=True):
            cached = map_cached(path, shape)  # another process may have made it meanwhile
            if cached is None:
                decode_all(files, stamps, path, kept, shape, workers, name)
                cached = np.load(path, mmap_mode="r")
    except UnreadableImages:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot write the picture cache ({error.strerror}); see --cache_dir") from None
    except InputError as error:
        raise InputError(f"{error}; --cache_dir names another folder for decoded pictures") from None
    return cached


def map_cached(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The cached array, or None if it is not there or not whole."""
    try:
        cached = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return cached if cached.shape == shape and cached.dtype == np.uint8 else None


def decode_all(
    files: list[Path], stamps: list[str], path: Path, kept: Path, shape: tuple[int, ...], workers: int, name: str
) -> None:
    """Write the array of all pictures to `path`, whole or not at all. The caller holds the lock.

    If some cannot be read, or the work is interrupted, what was decoded goes to `kept`: the same array and, after it,
    which rows are good.
    """
    remove_stale(path.parent)
    temporary = path.with_suffix(f".{secrets.token_hex(4)}.tmp")  # its own: there may be no locks on this drive
    faults: dict[Path, str] = {}
    wanted: dict[Path, Reading] = {}
    done, stopped, row = set(), None, math.prod(shape[1:])
    try:
        with open(temporary, "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            begin = file.tell()
            reserve(file, begin + len(files) * row)
            try:
                for i, picture in decoded(files, stamps, kept, shape, workers, name, faults, wanted):
                    file.seek(begin + i * row)
                    file.write(np.ascontiguousarray(picture))
                    done.add(i)
            except OSError:  # no more can be written
                raise
            except BaseException as error:  # e.g. Ctrl-C
                if not done:
                    raise
                stopped = error
            if stopped or faults:
                rows = {stamps[i]: i for i in sorted(done) if files[i] not in wanted}
                broken = [str(broken.absolute()) for broken in faults]
                file.seek(begin + len(files) * row)
                file.write(json.dumps({"rows": rows, "broken": broken}).encode())
        if done:
            replace(temporary, kept if stopped or faults else path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    if stopped:
        raise stopped
    if faults:
        raise UnreadableImages(faults)
    remove_kept(kept, files)
    size = f"{shape[2]}x{shape[3]}"
    print(f"Cached {len(files):,} pictures of {name} at {size}: {len(files) * row / 1e6:.1f} MB in {path}")


def decoded(
    files: list[Path], stamps: list[str], kept: Path, shape: tuple[int, ...], workers: int, name: str,
    faults: dict[Path, str], wanted: dict[Path, Reading],
) -> Iterator[tuple[int, np.ndarray]]:
    """The pictures by their place in the list: what is kept, then what must be decoded, then again those that must be
    read in another way to be like their list. Fills in `faults` and `wanted`."""
    have = set()
    for i, picture in read_kept(kept, stamps, shape[1:]):
        have.add(i)
        yield i, picture
    yield from decode([i for i in range(len(files)) if i not in have], files, shape, workers, name, faults, wanted)
    if wanted:
        reading = agree(wanted.values())
        again = [i for i, path in enumerate(files) if path in wanted and differ(wanted[path], reading)]
        yield from decode(again, files, shape, workers, name, faults, {}, reading)
        paper = "black" if reading.paper == BLACK else "white"
        print(f"{name}: {len(wanted):,} pictures are transparent or of more than 8 bits a channel: laid on {paper}, "
              f"their values 0..{reading.top:,} read as 0..255")


def decode(
    places: list[int], files: list[Path], shape: tuple[int, ...], workers: int, name: str,
    faults: dict[Path, str], wanted: dict[Path, Reading], reading: Reading | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode the pictures at these places in threads. What cannot be read is noted in `faults`."""

    def read(i: int) -> np.ndarray | InputError:
        try:
            return read_image(files[i], *shape[2:], wanted, reading)
        except InputError as error:
            return error

    with ThreadPoolExecutor(max(1, workers)) as pool:
        # some at a time: what is decoded must not pile up in memory where the disk is slow
        batches = (places[start : start + BATCH] for start in range(0, len(places), BATCH))
        jobs = (picture for batch in batches for picture in pool.map(read, batch))
        bar = Progress(f"decode {name}", len(places), "picture", leave=False)
        try:
            for i, picture in zip(places, jobs, strict=True):
                bar.update()
                if isinstance(picture, InputError):
                    faults[files[i]] = str(picture).removeprefix(f"{files[i]}: ")
                else:
                    yield i, picture
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            bar.close()


def read_kept(kept: Path, stamps: list[str], shape: tuple[int, ...]) -> Iterator[tuple[int, np.ndarray]]:
    """The pictures that were decoded when others could not be read, and have not changed since."""
    notes = kept_notes(kept)
    if notes is None or tuple(notes["shape"][1:]) != shape:
        return
    row = math.prod(shape)
    with open(kept, "rb") as file:
        for i, name in enumerate(stamps):
            if name in notes["rows"]:
                file.seek(notes["begin"] + notes["rows"][name] * row)
                picture = np.frombuffer(file.read(row), dtype=np.uint8)
                if picture.size == row:
                    yield i, picture


def kept_notes(kept: Path) -> dict | None:
    """What stands after the array in a file of kept pictures, with the array's shape and where it begins."""
    try:
        with open(kept, "rb") as file:
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
            begin = file.tell()
            file.seek(begin + math.prod(shape))
            return {"shape": shape, "begin": begin, **json.loads(file.read())}
    except (OSError, ValueError, TypeError):
        return None


def remove_kept(kept: Path, files: list[Path]) -> None:
    """Remove what was kept, unless a picture that could not be read is still there and only left out of this list."""
    notes, here = kept_notes(kept), {str(path.absolute()) for path in files}
    if notes and not any(path not in here and os.path.exists(path) for path in notes["broken"]):
        with contextlib.suppress(OSError):
            kept.unlink()


def replace(temporary: Path, path: Path) -> None:
    try:
        os.replace(temporary, path)
    except PermissionError:  # on Windows, where another process has made it meanwhile and mapped it
        if not path.exists():
            raise


def remove_stale(folder: Path) -> None:
    """Remove temporary files of processes that were killed."""
    for path in folder.glob("*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE:
                path.unlink()


def reserve(file: BinaryIO, length: int) -> None:
    """Give the file its length and, where the system can, its space: a full disk ends the work before it begins."""
    file.truncate(length)
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, length)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):  # else this drive can't reserve
                raise
