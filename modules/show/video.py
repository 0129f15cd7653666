"""Moving pictures: GIF and MP4 files of (T, H, W, 3) uint8 frames. Numbers in, files out; nothing here needs torch."""

import io
import itertools
import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from modules.files import write_bytes

COLORS = 256  # of a GIF's frame
TOGETHER = 1 << 17  # pixels whose palettes are found at once: 64 frames of 32x64
# a pixel or colour as one number that sorts by its highest byte: a channel to sort by, red, green, blue, its place
RED_GREEN_BLUE, PLACES = np.array([48, 40, 32], np.uint64), np.uint64(0xFFFFFFFF)
FRAMES_PER_SECOND = 20


def save_gif(path: Path, images: np.ndarray, frames_per_second: float = FRAMES_PER_SECOND) -> None:
    """Write (T, H, W, 3) uint8 as an endless GIF of exactly T frames, each with its own palette of 256 colours."""
    from PIL import Image

    pictures, before = [], None
    together = max(1, TOGETHER // images[0, ..., 0].size)
    for start in range(0, len(images), together):
        for palette, indices in zip(*quantize(images[start : start + together]), strict=True):
            shown = palette[indices]
            if before is not None and np.array_equal(shown, before):
                # Pillow merges equal neighbours into one longer frame: change one colour's blue by one level
                palette = palette.copy()
                palette[indices[0, 0], 2] ^= 1
                shown = palette[indices]
            picture = Image.fromarray(indices)
            picture.putpalette(palette[: int(indices.max()) + 1].tobytes())
            pictures.append(picture)
            before = shown
    buffer = io.BytesIO()
    duration = round(1000 / frames_per_second)
    options = {"duration": duration, "loop": 0, "optimize": False}  # to look for what stays alike takes too long
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], **options)
    write_bytes(path, buffer.getvalue())


def quantize(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A palette for every frame: (T, H, W, 3) uint8 -> (T, 256, 3) and indices into it (T, H, W), uint8.

    Exact where a frame has at most 256 colours. Else its colours are put together by `group_colors`, and each group is
    shown as the mean of its pixels.
    """
    T, height, width, _ = images.shape
    pixels = np.broadcast_to(np.arange(height * width, dtype=np.uint64), (T, height * width))
    for channel, shift in enumerate(RED_GREEN_BLUE):
        pixels = pixels | images[..., channel].reshape(T, -1).astype(np.uint64) << shift
    pixels.sort(axis=1)
    codes = (pixels >> np.uint64(32)).astype(np.uint32)
    new = np.diff(codes, axis=1, prepend=codes[:, :1] ^ 1) != 0
    rank = np.cumsum(new, axis=1) - 1  # of a pixel's colour among its frame's
    counts = rank[:, -1] + 1
    groups = np.broadcast_to(np.arange(counts.max()), (T, counts.max())).astype(np.uint8)
    many = counts > COLORS
    if many.any():
        colors = np.zeros((many.sum(), counts.max()), np.uint32)
        colors[np.arange(counts.max()) < counts[many, None]] = codes[many][new[many]]
        groups[many] = group_colors(colors, counts[many])
    sorted_indices = np.take_along_axis(groups, rank, axis=1)
    indices = np.empty((T, height * width), np.uint8)
    np.put_along_axis(indices, (pixels & PLACES).astype(np.intp), sorted_indices, axis=1)
    entries = (np.arange(T)[:, None] * COLORS + sorted_indices).ravel()
    sums = [np.bincount(entries, (codes >> shift & 255).ravel(), T * COLORS) for shift in (16, 8, 0)]
    palettes = np.stack(sums, axis=1) / np.maximum(1, np.bincount(entries, minlength=T * COLORS))[:, None]
    return np.rint(palettes).astype(np.uint8).reshape(T, COLORS, 3), indices.reshape(T, height, width)


def group_colors(colors: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """256 groups of the distinct colours of T frames: (T, N) uint32 0xRRGGBB -> (T, N) uint8. Of frame t the first
    counts[t] colours count, more than 256.

    Every box of colours is cut in two halves along its widest channel until there are 128, for all frames at once (the
    median cut; Heckbert 1982); the last cut is where it leaves the least squared error. Each colour counts once,
    however many pixels have it: a wide even background doesn't take colours from the rest.
    """
    T, size = len(colors), -(-counts.max() // COLORS) * COLORS
    places = np.arange(size) * counts[:, None] // size  # frames with fewer colours have some of them several times
    boxes = np.take_along_axis(colors, places, axis=1).astype(np.uint64) << np.uint64(32) | places.astype(np.uint64)
    for count in 2 ** np.arange(COLORS.bit_length() - 1):
        boxes = boxes.reshape(T * count, size // count)
        channels = [(boxes >> shift).astype(np.uint8) for shift in RED_GREEN_BLUE]
        widest = np.argmax([x.max(axis=1) - x.min(axis=1) for x in channels], axis=0)
        boxes = boxes & np.uint64((1 << 56) - 1) | boxes >> RED_GREEN_BLUE[widest][:, None] << np.uint64(56)
        boxes.sort(axis=1)
    size = boxes.shape[1]
    total, left = np.cumsum(boxes >> np.uint64(56), axis=1, dtype=np.float64), np.arange(1, size)
    explained = total[:, :-1] ** 2 / left + (total[:, -1:] - total[:, :-1]) ** 2 / (size - left)
    second = np.arange(size) > explained.argmax(axis=1)[:, None]  # (T * 128, size)
    found = np.arange(0, COLORS, 2)[:, None] + second.reshape(T, COLORS // 2, size)
    groups = np.zeros(colors.shape, np.uint8)
    places = (boxes & PLACES).astype(np.intp).reshape(T, -1)
    np.put_along_axis(groups, places, found.astype(np.uint8).reshape(T, -1), axis=1)
    return groups


def save_mp4(path: Path, images: Iterable[np.ndarray], frames_per_second: float = FRAMES_PER_SECOND) -> str:
    """Write uint8 images with even sides as H.264. Returns why there is no file, or nothing.

    They are (height, width, 3) or, as H.264 stores them, planes of yuv420p, (height * 3 / 2, width). The film is
    counted before it is moved into place: ffmpeg may fail, and a full disk may cut it off.
    """
    try:
        import imageio_ffmpeg

        with tempfile.TemporaryDirectory() as folder:
            film = Path(folder) / "film.mp4"
            ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
            written, found = encode(ffmpeg, film, images, frames_per_second), count_frames(ffmpeg, film)
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
    layout, height, width = "rgb24", *first.shape[:2]
    if first.ndim == 2:
        layout, height = "yuv420p", height * 2 // 3
    command = [ffmpeg, "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", layout, "-s", f"{width}x{height}",
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


def count_frames(ffmpeg: str, film: Path) -> int:
    """Frames that a film's container holds; 0 where it cannot be opened. None is decoded: that would take a quarter of
    the time that the film took."""
    command = [ffmpeg, "-loglevel", "error", "-i", str(film), "-map", "0:v:0", "-c", "copy", "-f", "null", "-nostats",
               "-progress", "pipe:1", os.devnull]
    said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).stdout
    return max((int(line[6:]) for line in said.splitlines() if line.startswith(b"frame=")), default=0)
