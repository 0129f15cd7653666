"""A video, read by PyAV (FFmpeg as a library) or from a folder of images: its frames as they are shown, their times.

PyAV tells each frame's time, rotation, shape of the pixels and transfer function as values. imageio's ffmpeg plugin
prints them as text, and no times. Both decode 1920x1080 equally fast.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image

from modules.data.pairing import one_sequence
from modules.data.reading import over_white, read_image
from modules.runtime import InputError

FOLDER_RATE = 30.0  # frames a second of a folder of images, which has no times
UNEVEN = 0.25  # a step between two frames that is this share off the median makes a variable rate
LOCAL = {"protocol_whitelist": "file,crypto"}  # a file that refers to the net gets nothing
HDR = {16: "PQ", 18: "HLG"}  # by FFmpeg's number of the transfer function


class Video(NamedTuple):
    path: Path
    files: dict[int, Path] | None  # the images of a folder by the number in their name
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
    """Find the size and the times of all frames; a file is decoded once. InputError for what is no video."""
    files, times, size = None, [], (0, 0)
    if path.is_dir():
        files = one_sequence(path)
        size = read_image(next(iter(files.values()))).shape[:0:-1]
    elif path.is_file():
        for frame, aspect in decode(path):
            size = size if times else shown(frame, aspect).size
            times.append(frame.time)
    else:
        raise InputError(f"{path}: not found; expected a video or a folder of images")
    if files or None in times or (np.diff(times) <= 0).any():  # no times, or none that make sense: a constant rate
        times = np.arange(len(files or times)) / FOLDER_RATE
    if len(times) < 2:
        raise InputError(f"{path}: {len(times)} video frames in it; expected a video")
    return Video(path, files, size[1], size[0], np.array(times) - times[0])


def decode(path: Path) -> Iterator[tuple[av.VideoFrame, float]]:
    """Every frame of the first video stream, and the width of its pixels in units of their height."""
    count = 0
    try:
        with av.open(f"file:{path.resolve()}", options=LOCAL) as container:
            for stream in container.streams.video[:1]:
                if stream.metadata.get("alpha_mode") == "1":
                    raise InputError(f"{path}: VP8 or VP9 with transparency, which is not read; expected a video "
                                     "without, or a folder of PNG images")
                stream.thread_type = "AUTO"
                aspect = float(stream.sample_aspect_ratio or 1)
                for packet in container.demux(stream):
                    if packet.is_corrupt:
                        raise InputError(f"{path}: damaged or cut off after frame {count}; expected a whole video")
                    for frame in packet.decode():
                        if frame.color_trc in HDR:
                            raise InputError(f"{path}: HDR ({HDR[frame.color_trc]}); expected SDR (BT.709): ffmpeg or "
                                             "the phone converts it")
                        yield frame, aspect
                        count += 1
    except (av.FFmpegError, OSError) as error:
        reason = f"damaged after frame {count}" if count else "no video, or a damaged one"
        raise InputError(f"{path}: {reason} ({error.strerror}); expected a whole video") from None


def shown(frame: av.VideoFrame, aspect: float) -> Image.Image:
    """A frame as a player shows it: transparent pixels over white, square pixels, upright."""
    alpha = any(component.is_alpha for component in frame.format.components)
    image = over_white(Image.fromarray(frame.to_ndarray(format="rgba" if alpha else "rgb24")))
    if aspect != 1:
        image = image.resize((max(1, round(image.width * aspect)), image.height), Image.Resampling.BILINEAR)
    return Image.fromarray(np.rot90(image, frame.rotation // 90))


def read_frames(video: Video) -> Iterator[Image.Image]:
    """All frames as RGB images, in order."""
    for t, source in enumerate(video.files.values() if video.files else decode(video.path)):
        image = Image.fromarray(read_image(source).transpose(1, 2, 0)) if video.files else shown(*source)
        if image.size != (video.width, video.height):
            raise InputError(f"{source if video.files else video.path}: frame {t} has {image.width}x{image.height} "
                             f"pixels, the first {video.width}x{video.height}; expected one size")
        yield image


def choose_frames(video: Video, rate: float | None, start: float, end: float | None) -> np.ndarray:
    """Numbers of the frames to take, from `start` to `end` seconds: all, or at `rate` frames a second the one that is
    shown then. A variable rate is made even."""
    if rate is None and not video.uneven:
        return np.flatnonzero((video.times >= start - 1e-6) & (video.times < (np.inf if end is None else end) - 1e-6))
    rate = rate or video.rate
    stop = min(video.times[-1] + 1 / video.rate, np.inf if end is None else end)
    moments = start + np.arange(max(0, int(np.ceil((stop - start) * rate - 1e-6)))) / rate
    return np.searchsorted(video.times, moments + 1e-6, side="right") - 1
