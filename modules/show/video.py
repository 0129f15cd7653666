"""GIF and MP4 files of (T, H, W, 3) uint8 frames. Nothing here needs torch."""

import io
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from modules.data.layout import FRAMES_PER_SECOND
from modules.files import write_bytes

COLORS = 256  # of a GIF's frame
TOGETHER = 1 << 17  # pixels whose palettes are found at once: 64 frames of 32x64
# a pixel or colour as one number that sorts by its highest byte: a channel to sort by, red, green, blue, its place
RED_GREEN_BLUE, PLACES = np.array([48, 40, 32], np.uint64), np.uint64(0xFFFFFFFF)
# crf 18: no visible loss; neighbor: colours keep the sharp edges of magnified pixels; faststart: a browser plays it
# before it has read all of it; bt709: else players guess the colours
ENCODING = {
    "codec": "libx264", "pixelformat": "yuv420p", "macro_block_size": 2, "quality": None, "ffmpeg_log_level": "quiet",
    "output_params": ["-vf", "scale=flags=neighbor:out_color_matrix=bt709:out_range=tv,"
                      "setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709", "-movflags", "+faststart",
                      "-crf", "18", "-preset", "ultrafast", "-tune", "animation", "-threads", "1"],
}


def save_gif(path: Path | str, images: np.ndarray, frames_per_second: float = FRAMES_PER_SECOND) -> None:
    """Write (T, H, W, 3) uint8 as an endless GIF of exactly T frames, each with its own palette of 256 colours."""
    from PIL import Image

    frames, before = [], None
    together = max(1, TOGETHER // images[0, ..., 0].size)
    for start in range(0, len(images), together):
        for palette, indices in zip(*quantize(images[start : start + together]), strict=True):
            shown = palette[indices]
            if before is not None and np.array_equal(shown, before):
                # Pillow merges equal neighbours into one longer frame: change one colour's blue by one level
                palette[indices[0, 0], 2] ^= 1
                shown = palette[indices]
            frame = Image.fromarray(indices)
            frame.putpalette(palette[: int(indices.max()) + 1].tobytes())
            frames.append(frame)
            before = shown
    buffer = io.BytesIO()
    options = {"duration": round(1000 / frames_per_second), "loop": 0, "optimize": False}  # optimize is slow
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], **options)
    write_bytes(Path(path), buffer.getvalue())


def quantize(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A palette for every frame: (T, H, W, 3) uint8 -> (T, 256, 3) and indices into it (T, H, W), uint8.

    Exact for at most 256 colours a frame. Else `group_colors` groups them, and a group becomes the mean of its pixels.
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

    Median cut (Heckbert 1982), for all frames at once: every box of colours is cut in halves along its widest channel
    until there are 256. Each colour counts once, however many pixels have it, so that a wide even background takes no
    colours from the rest.
    """
    T, size = len(colors), -(-counts.max() // COLORS) * COLORS
    places = np.arange(size) * counts[:, None] // size  # frames with fewer colours have some of them several times
    boxes = np.take_along_axis(colors, places, axis=1).astype(np.uint64) << np.uint64(32) | places.astype(np.uint64)
    for count in 2 ** np.arange(8):
        boxes = boxes.reshape(T * count, size // count)
        channels = [(boxes >> shift).astype(np.uint8) for shift in RED_GREEN_BLUE]
        widest = np.argmax([x.max(axis=1) - x.min(axis=1) for x in channels], axis=0)
        boxes = boxes & np.uint64((1 << 56) - 1) | boxes >> RED_GREEN_BLUE[widest][:, None] << np.uint64(56)
        boxes.sort(axis=1)
    groups = np.zeros(colors.shape, np.uint8)
    found = np.broadcast_to((np.arange(size) * COLORS // size).astype(np.uint8), (T, size))
    np.put_along_axis(groups, (boxes & PLACES).astype(np.intp).reshape(T, size), found, axis=1)
    return groups


def save_mp4(path: Path, images: Iterable[np.ndarray], frames_per_second: float = FRAMES_PER_SECOND) -> str:
    """Write (height, width, 3) uint8 images with even sides as H.264. Returns why there is no file, or nothing.

    Its duration is checked before it is moved into place: ffmpeg may fail, or a full disk may cut it off.
    """
    try:
        import imageio.v2 as imageio

        with tempfile.TemporaryDirectory() as folder:
            video, count = Path(folder) / "video.mp4", 0
            with imageio.get_writer(video, "ffmpeg", fps=frames_per_second, **ENCODING) as writer:
                for image in images:
                    writer.append_data(image)
                    count += 1
            with imageio.get_reader(video, "ffmpeg") as reader:
                seconds, expected = reader.get_meta_data()["duration"], count / frames_per_second
            if abs(seconds - expected) > 0.01:  # ffmpeg prints hundredths
                return f"{path.name} is not written: it lasts {seconds:.2f} s instead of {expected:.2f} s"
            write_bytes(path, video.read_bytes())
    except (ImportError, RuntimeError, OSError, ValueError, IndexError) as error:
        return f"{path.name} is not written: no working ffmpeg ({' '.join(str(error).split())[:100]})"
    return ""
