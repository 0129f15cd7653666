"""Moving pictures: GIF and MP4 files of (T, H, W, 3) uint8 frames. Numbers in, files out; nothing here needs torch."""

import io
import itertools
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from modules.files import write_bytes

COLORS = 256  # of a GIF's frame
TOGETHER = 64  # frames whose palettes are found at once
FRAMES_PER_SECOND = 20


def save_gif(path: Path, images: np.ndarray, frames_per_second: float = FRAMES_PER_SECOND) -> None:
    """Write (T, H, W, 3) uint8 as an endless GIF of exactly T frames, each with its own palette of 256 colours."""
    from PIL import Image

    pictures, before = [], None
    for start in range(0, len(images), TOGETHER):
        for palette, indices in zip(*quantize(images[start : start + TOGETHER]), strict=True):
            shown = palette[indices]
            if before is not None and np.array_equal(shown, before):
                # Pillow merges equal neighbours into one longer frame: change one colour's blue by one level
                palette = palette.copy()
                palette[indices[0, 0], 2] ^= 1
                shown = palette[indices]
            picture = Image.fromarray(indices)
            picture.putpalette(palette.tobytes())
            pictures.append(picture)
            before = shown
    buffer = io.BytesIO()
    duration = round(1000 / frames_per_second)
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0)
    write_bytes(path, buffer.getvalue())


def quantize(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A palette for every frame: (T, H, W, 3) uint8 -> (T, 256, 3) and indices into it (T, H, W), uint8.

    Exact where a frame has at most 256 colours, else by `split_colors`.
    """
    T, height, width, _ = images.shape
    codes = images.reshape(T, -1, 3).astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    ordered = np.sort(codes, axis=1)
    new = np.diff(ordered, axis=1, prepend=ordered[:, :1] ^ 1) != 0
    few = new.sum(axis=1) <= COLORS
    palettes, indices = np.zeros((T, COLORS, 3), np.uint8), np.empty((T, height * width), np.uint8)
    for t in np.flatnonzero(few):
        colors = ordered[t][new[t]]
        indices[t] = np.searchsorted(colors, codes[t])
        palettes[t, : len(colors)] = (colors[:, None] >> np.array([16, 8, 0], np.uint32)) & 255
    if not few.all():
        palettes[~few], indices[~few] = split_colors(images[~few])
    return palettes, indices.reshape(T, height, width)


def split_colors(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Palettes by splitting colour space: (T, H, W, 3) uint8 -> (T, 256, 3) and indices (T, H * W), uint8.

    Every box of pixels is cut in two halves along its widest channel until there are 128, for all frames at once (the
    median cut; Heckbert 1982); the last cut is where it leaves the least squared error. A box's colour is its mean.
    """
    T, pixels = len(images), images[0, ..., 0].size
    padded = -(-pixels // COLORS) * COLORS  # the last pixel again and again
    at = np.minimum(np.arange(padded), pixels - 1)
    channels = [np.ascontiguousarray(images.reshape(T, -1, 3)[:, at, c]) for c in range(3)]
    at = np.broadcast_to(at.astype(np.uint32), (T, padded))
    boxes = 1
    while boxes < COLORS:
        channels, at = ([x.reshape(T * boxes, padded // boxes) for x in channels],
                        at.reshape(T * boxes, padded // boxes))
        widest = np.argmax([x.max(axis=1) - x.min(axis=1) for x in channels], axis=0)
        level = np.choose(widest[:, None], channels).astype(np.uint32)
        ordered = np.sort(level << 24 | np.arange(level.shape[1], dtype=np.uint32), axis=1)  # the place rides along
        place = (ordered & 0xFFFFFF).astype(np.intp)
        channels, at = [np.take_along_axis(x, place, 1) for x in channels], np.take_along_axis(at, place, 1)
        boxes *= 2
    size = channels[0].shape[1]
    total = np.cumsum(ordered >> 24, axis=1, dtype=np.float64)
    left = np.arange(1, size)
    explained = total[:, :-1] ** 2 / left + (total[:, -1:] - total[:, :-1]) ** 2 / (size - left)
    cut = explained.argmax(axis=1)[:, None] + 1
    second = np.arange(size) >= cut  # (T * 128, size)
    sums = [(x.sum(axis=1, dtype=np.float64), (x * second).sum(axis=1, dtype=np.float64)) for x in channels]
    after = size - cut[:, 0]  # pixels of the second box
    palettes = np.stack([np.stack([(both - b) / (size - after), b / after], axis=1) for both, b in sums], axis=2)
    labels = np.arange(0, COLORS, 2)[:, None] + second.reshape(T, COLORS // 2, size)
    indices = np.empty((T, pixels), np.uint8)
    np.put_along_axis(indices, at.reshape(T, padded).astype(np.intp), labels.reshape(T, padded).astype(np.uint8), 1)
    return np.rint(palettes).astype(np.uint8).reshape(T, COLORS, 3), indices


def save_mp4(path: Path, images: Iterable[np.ndarray], frames_per_second: float = FRAMES_PER_SECOND) -> str:
    """Write (height, width, 3) uint8 images with even sides as H.264. Returns why there is no file, or nothing.

    The film is counted before it is moved into place: ffmpeg may fail, and a full disk may cut it off.
    """
    try:
        import imageio_ffmpeg

        with tempfile.TemporaryDirectory() as folder:
            film = Path(folder) / "film.mp4"
            written = encode(imageio_ffmpeg.get_ffmpeg_exe(), film, images, frames_per_second)
            found, _ = imageio_ffmpeg.count_frames_and_secs(str(film))
            if found != written:
                return f"{path.name} is not written: it has {found} frames instead of {written}"
            write_bytes(path, film.read_bytes())
    except (ImportError, RuntimeError, OSError, ValueError) as error:
        return f"{path.name} is not written: no working ffmpeg ({' '.join(str(error).split())[:100]})"
    return ""


def encode(ffmpeg: str, film: Path, images: Iterable[np.ndarray], frames_per_second: float) -> int:
    """Run ffmpeg on the images; the number of them. OSError with its last words where it fails."""
    images = iter(images)
    first = next(images)
    height, width, _ = first.shape
    command = [ffmpeg, "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}",
               "-r", str(frames_per_second), "-i", "-", "-sws_flags", "neighbor", "-pix_fmt", "yuv420p",
               "-c:v", "libx264", "-crf", "18", "-preset", "ultrafast", "-tune", "animation", "-threads", "1",
               str(film)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        written = 0
        try:
            for image in itertools.chain([first], images):
                process.stdin.write(np.ascontiguousarray(image))
                written += 1
            process.stdin.close()
        except BrokenPipeError:
            pass  # it says why below
        words = process.stderr.read().decode(errors="replace").strip().splitlines()
        if process.wait():
            raise OSError(words[-1] if words else f"it ended with code {process.returncode}")
    return written
