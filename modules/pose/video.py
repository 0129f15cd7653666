"""A film, read by ffmpeg or from a folder of pictures: how many frames, when, how large, and the frames themselves.

ffmpeg turns frames as the camera's rotation says, and gives every coded frame once with its time, whatever the rate.
"""

import itertools
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import imageio_ffmpeg
import numpy as np
from PIL import Image

from modules.data.pairing import find_clips, frame_number, list_images
from modules.runtime import InputError

FOLDER_RATE = 30.0  # frames a second of a folder of pictures, which has no times
UNEVEN = 0.25  # of a frame's time: more than that off, and the rate is a variable one


class Film(NamedTuple):
    path: Path
    files: list[Path] | None  # of a folder
    height: int  # pixels, as it is shown
    width: int
    times: np.ndarray  # (N) seconds from the first frame on
    cuts: frozenset[int]  # frames that follow a jump in a folder's numbering

    @property
    def rate(self) -> float:
        """Frames a second: the median."""
        return 1 / float(np.median(np.diff(self.times)))

    @property
    def uneven(self) -> bool:
        """Whether the rate is a variable one."""
        steps = np.diff(self.times) * self.rate
        return bool((np.abs(steps - 1) > UNEVEN).any())


def open_film(path: Path) -> Film:
    """Find out what there is. InputError for what is no film."""
    if path.is_dir():
        files = list_images(path)
        with open_picture(files[0]) as first:
            width, height = first.size
        begins = [begin for begin, _ in find_clips([frame_number(file) for file in files])]
        film = Film(path, files, height, width, np.arange(len(files)) / FOLDER_RATE, frozenset(begins[1:]))
    elif path.is_file():
        film = probe(path)
    else:
        raise InputError(f"{path}: not found; expected a video or a folder of pictures")
    if len(film.times) < 2:
        raise InputError(f"{path}: {len(film.times)} frame; expected a film")
    return film


def open_picture(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=("PNG", "JPEG")).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable picture ({error!s:.200}); expected a PNG or JPEG") from None


def ffmpeg(path: Path, *options: str) -> list[str]:
    """The command that decodes every frame of the first video stream once. Files that refer to the net get nothing."""
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise InputError(f"no ffmpeg to read {path} with ({error!s:.100}); pip install imageio-ffmpeg") from None
    return [program, "-hide_banner", "-nostdin", "-protocol_whitelist", "file,crypto", "-i", f"file:{path.resolve()}",
            "-map", "0:v:0", "-fps_mode", "passthrough", *options]


def probe(path: Path) -> Film:
    """Decode once for the sizes and times of all frames."""
    done = subprocess.run(ffmpeg(path, "-vf", "showinfo", "-f", "null", "-"), capture_output=True)
    text = done.stderr.decode("utf-8", "replace")
    if "Input #0" not in text:
        raise InputError(f"{path}: not a video that ffmpeg can read ({reason(text)})")
    if not re.search(r"Stream #0:\d+.*: Video:", text):
        raise InputError(f"{path}: has no picture, only sound or other data; expected a video")
    base = re.search(r"config in time_base: (\d+)/(\d+)", text)
    frames = re.findall(r"n: *\d+ pts: *(\S+) .*? s:(\d+)x(\d+) ", text)
    if not frames or base is None:
        raise InputError(f"{path}: no frame in it can be decoded ({reason(text)})")
    if len({frame[1:] for frame in frames}) > 1:
        raise InputError(f"{path}: its frames have several sizes; expected one")
    unit = int(base[1]) / int(base[2])
    known = [frame[0].lstrip("-").isdigit() for frame in frames]
    times = np.array([int(frame[0]) for frame in frames]) * unit if all(known) else np.arange(len(frames)) / FOLDER_RATE
    if (np.diff(times) <= 0).any():  # times that make no sense: as if the rate were constant
        times = np.arange(len(frames)) / FOLDER_RATE
    return Film(path, None, int(frames[0][2]), int(frames[0][1]), times - times[0], frozenset())


def reason(text: str) -> str:
    """ffmpeg's last word, short."""
    lines = [line for line in text.splitlines() if line.strip()]
    return re.sub(r"^\[[^]]*\] *", "", lines[-1])[-120:] if lines else "no reason given"


def pictures(film: Film) -> Iterator[Image.Image]:
    """All frames as RGB pictures, in order."""
    if film.files is not None:
        for file in film.files:
            picture = open_picture(file)
            if picture.size != (film.width, film.height):
                raise InputError(f"{file}: {picture.width}x{picture.height} pixels, the folder's first picture has "
                                 f"{film.width}x{film.height}; expected one size")
            yield picture
        return
    bytes_each = 3 * film.height * film.width
    command = ffmpeg(film.path, "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    with tempfile.TemporaryFile() as errors, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=errors, bufsize=bytes_each
    ) as process:
        try:
            for t in itertools.count():
                raw = process.stdout.read(bytes_each)
                if t == len(film.times) or len(raw) < bytes_each:
                    break
                yield Image.frombytes("RGB", (film.width, film.height), raw)
        finally:
            process.kill()
    if t < len(film.times):
        raise InputError(f"{film.path}: frame {t} cannot be decoded")


def choose_frames(film: Film, rate: float | None, start: float, end: float | None) -> np.ndarray:
    """Numbers of the frames to take, from `start` to `end` seconds: all, or at `rate` frames a second the one that is
    shown then. A variable rate is made even."""
    if rate is None and not film.uneven:
        return np.flatnonzero((film.times >= start - 1e-6) & (film.times < (np.inf if end is None else end) - 1e-6))
    rate = rate or film.rate
    stop = min(film.times[-1] + 1 / film.rate, np.inf if end is None else end)
    moments = start + np.arange(max(0, int(np.ceil((stop - start) * rate - 1e-6)))) / rate
    return np.searchsorted(film.times, moments + 1e-6, side="right") - 1
