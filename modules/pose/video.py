"""A video, read by ffmpeg or from a folder of images: the times of its frames, their size, and the frames.

ffmpeg rotates frames as the camera says and gives every coded frame once, whatever the rate. imageio's ffmpeg reads the
frames; it does not tell their times, so these come from ffmpeg's own listing of frames, framecrc.
"""

import logging
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import imageio_ffmpeg
import numpy as np
from PIL import Image

from modules.data.pairing import one_sequence
from modules.data.reading import read_image
from modules.runtime import InputError

FOLDER_RATE = 30.0  # frames a second of a folder of images, which has no times
UNEVEN = 0.25  # a step between two frames that is this share off the median makes a variable rate
LOCAL = ["-protocol_whitelist", "file,crypto"]  # a file that refers to the net gets nothing
EACH_FRAME = ["-map", "0:v:0", "-fps_mode", "passthrough"]  # of the first video stream, none repeated or dropped
logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)  # else it warns of every rotated video


class Video(NamedTuple):
    path: Path
    files: list[Path] | None  # the images of a folder
    height: int  # pixels, as it is shown
    width: int
    times: np.ndarray  # (N) seconds from the first frame on

    @property
    def rate(self) -> float:
        """Frames a second: the median."""
        return 1 / float(np.median(np.diff(self.times)))

    @property
    def uneven(self) -> bool:
        """Whether the rate is a variable one."""
        return bool((np.abs(np.diff(self.times) * self.rate - 1) > UNEVEN).any())


def open_video(path: Path) -> Video:
    """Find the size and the times of all frames. InputError for what is no video."""
    if path.is_dir():
        files = list(one_sequence(path).values())
        _, height, width = read_image(files[0]).shape
        video = Video(path, files, height, width, np.arange(len(files)) / FOLDER_RATE)
    elif path.is_file():
        video = probe(path)
    else:
        raise InputError(f"{path}: not found; expected a video or a folder of images")
    if len(video.times) < 2:
        raise InputError(f"{path}: {len(video.times)} frame; expected a video")
    return video


def probe(path: Path) -> Video:
    """Decode once for the size and the times of all frames."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    done = subprocess.run([ffmpeg, "-v", "error", "-nostdin", *LOCAL, "-i", f"file:{path.resolve()}", *EACH_FRAME,
                           "-noautoscale", "-enc_time_base", "demux", "-f", "framecrc", "-"], capture_output=True)
    table = done.stdout.decode()
    frames = re.findall(r"^0, *-?\d+, *(-?\d+), *\d+, *(\d+)", table, re.MULTILINE)  # time and bytes of each
    if not frames:
        reason = re.sub(r"^\[[^]]*\] *", "", done.stderr.decode("utf-8", "replace").partition("\n")[0])[:120]
        raise InputError(f"{path}: ffmpeg finds no video frame in it ({reason or 'no reason given'})")
    if len({size for _, size in frames}) > 1:
        raise InputError(f"{path}: its frames have several sizes; expected one")
    header = re.findall(r"^#(?:tb|dimensions) 0: (\d+)[/x](\d+)", table, re.MULTILINE)
    (numerator, denominator), (width, height) = ((int(first), int(second)) for first, second in header)
    times = np.array([int(time) for time, _ in frames]) * (numerator / denominator)
    if (np.diff(times) <= 0).any():  # times that make no sense: as if the rate were constant
        times = np.arange(len(frames)) / FOLDER_RATE
    return Video(path, None, height, width, times - times[0])


def read_frames(video: Video) -> Iterator[Image.Image]:
    """All frames as RGB images, in order."""
    for file in video.files or ():
        image = Image.fromarray(read_image(file).transpose(1, 2, 0))
        if image.size != (video.width, video.height):
            raise InputError(f"{file}: {image.width}x{image.height} pixels, the folder's first image has "
                             f"{video.width}x{video.height}; expected one size")
        yield image
    if video.files is None:
        frames, t = imageio_ffmpeg.read_frames(f"file:{video.path.resolve()}", "rgb24", None, LOCAL, EACH_FRAME), 0
        try:
            next(frames)  # facts of the file, as text tells them
            while t < len(video.times):
                yield Image.frombytes("RGB", (video.width, video.height), next(frames))
                t += 1
        except (OSError, RuntimeError, StopIteration):
            raise InputError(f"{video.path}: frame {t} cannot be decoded") from None


def choose_frames(video: Video, rate: float | None, start: float, end: float | None) -> np.ndarray:
    """Numbers of the frames to take, from `start` to `end` seconds: all, or at `rate` frames a second the one that is
    shown then. A variable rate is made even."""
    if rate is None and not video.uneven:
        return np.flatnonzero((video.times >= start - 1e-6) & (video.times < (np.inf if end is None else end) - 1e-6))
    rate = rate or video.rate
    stop = min(video.times[-1] + 1 / video.rate, np.inf if end is None else end)
    moments = start + np.arange(max(0, int(np.ceil((stop - start) * rate - 1e-6)))) / rate
    return np.searchsorted(video.times, moments + 1e-6, side="right") - 1
