"""Image files and true frames from anybody, full disks, concurrent starts: a correct array or one line of error."""

import errno
import os
import random
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from conftest import ROOT, SMALL, check_error, run_inside, write_numbered, write_picture
from PIL import Image

from dataloader import Dataset_Dance
from modules.data.reading import read_image
from modules.data.truth import find_truth
from modules.runtime import InputError


def png(width, height, depth, color, data):
    """The bytes of a PNG whose header claims these sizes."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    contents = b""
    for kind, text in ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")):
        contents += struct.pack(">I", len(text)) + kind + text + struct.pack(">I", zlib.crc32(kind + text))
    return b"\x89PNG\r\n\x1a\n" + contents


def png16(pixels):
    """The bytes of a 16-bit PNG of (h, w, channels)."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png(pixels.shape[1], pixels.shape[0], 16, {1: 0, 2: 4, 3: 2, 4: 6}[pixels.shape[2]], rows)


# images of every mode


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("top", [255, 65535])
def test_16_bits_are_read_as_8(tmp_path, channels, top):
    values = np.linspace(0, top, 32).round().astype(int).reshape(4, 8, 1)
    pixels = values.repeat(channels, 2)
    if channels in (2, 4):
        pixels[..., -1] = 65535
    (tmp_path / "1.png").write_bytes(png16(pixels))
    expected = values * (channels != 2) if top == 255 else values // 256  # of grey with alpha always the high byte
    assert np.array_equal(read_image(tmp_path / "1.png", 4, 8), expected.repeat(3, 2).transpose(2, 0, 1))


@pytest.mark.parametrize("name, mode, background, line, first, third", [  # background and line: RGBA; first, third: red
    ("1.png", "RGBA", (0, 0, 0, 0), (200, 0, 0, 255), 255, 200),
    ("2.webp", "RGBA", (0, 0, 0, 0), (200, 0, 0, 255), 255, 200),
    ("3.png", "P", (0, 0, 0, 0), (200, 0, 0, 255), 255, 200),
    ("4.png", "LA", (0, 0, 0, 0), (200, 200, 200, 255), 255, 200),
    ("5.png", "1", (0, 0, 0, 255), (255, 255, 255, 255), 0, 255),
    ("6.png", "L", (9, 9, 9, 255), (200, 0, 0, 255), 9, 60),
    ("7.jpg", "CMYK", (0, 0, 0, 255), (200, 0, 0, 255), 0, 200),
    ("turned.jpg", "RGB", (0, 0, 0, 255), (200, 200, 200, 255), 0, 200),
    ("8.PPM", "RGB", (9, 9, 9, 255), (200, 0, 0, 255), 9, 200),
])
def test_8_bit_images_of_every_mode(tmp_path, name, mode, background, line, first, third):
    pixels = np.full((8, 8, 4), background, dtype=np.uint8)
    pixels[:, 2:4] = pixels[:, 6:] = line
    image, exif = Image.fromarray(pixels), Image.Exif()
    if name == "turned.jpg":
        image, exif[0x0112] = image.rotate(90), 6  # a telephone held upright: turned by 90 degrees
    image = image.quantize(4) if mode == "P" else image.convert("RGB" if mode == "CMYK" else mode).convert(mode)
    image.save(tmp_path / name, quality=100, lossless=True, exif=exif)
    red = read_image(tmp_path / name, 8, 8)[0, 4].astype(int)
    assert abs(red[0] - first) < 9 and abs(red[2] - third) < 9 and abs(red[7] - third) < 9


def test_images_are_resized_with_pils_bilinear_filter(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = np.asarray(Image.fromarray(pixels).resize((16, 8), Image.Resampling.BILINEAR))
    assert np.array_equal(read_image(tmp_path / "a.png", 8, 16), expected.transpose(2, 0, 1))
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels.transpose(2, 0, 1))


def test_100_damaged_images_are_refused_in_one_line_or_read(tmp_path):
    rng, path, count = random.Random(0), tmp_path / "frame000001.png", 0
    pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    samples = [png16(pixels.astype(int) * 200)]
    for name, mode in (("a.png", "RGB"), ("b.png", "P"), ("c.jpg", "RGB"), ("d.png", "LA"), ("e.bmp", "RGB")):
        Image.fromarray(pixels).convert(mode).save(tmp_path / name)
        samples.append((tmp_path / name).read_bytes())
    for i in range(100):
        data = bytearray(rng.choice(samples))
        for _ in range(rng.choice([0, 1, 5, 100])):
            data[rng.randrange(rng.choice([60, len(data)]))] = rng.randrange(256)
        path.write_bytes(data[: rng.choice([len(data), len(data), rng.randrange(len(data))])])
        try:
            assert read_image(path, 4, 8).shape == (3, 4, 8)
            count += 1
        except InputError as error:
            assert "frame000001.png: " in str(error) and len(str(error)) < 500, i
    assert 10 < count < 80


@pytest.mark.parametrize("make, words", [
    (lambda path: path.write_bytes(png(100_000, 100_000, 8, 2, b"")), "not a readable image"),
    (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not a readable image"),
    (lambda path: path.write_bytes(b"P5\n8 4\n65535\n" + bytes(64)), "more than 8 bits a channel"),
    (lambda path: path.symlink_to("nowhere.png"), "not a readable image"),
    (lambda path: path.mkdir(), "not a file"),
    (lambda path: os.mkfifo(path), "not a file"),
])
def test_a_hostile_image_is_one_line(tmp_path, make, words):
    make(tmp_path / "frame000001.png")
    with pytest.raises(InputError, match=f"frame000001.png: .*{words}"):
        read_image(tmp_path / "frame000001.png", 4, 8)


# true frames as numbers


def test_true_frames_are_numbers_or_one_line(tmp_path):
    for kind in ("img", "label"):
        for number in range(3):
            write_picture(tmp_path / f"test/test_{kind}/0/{number}.png", number)
    sequences = Dataset_Dance(tmp_path, "test", 4, 8, cache_dir=tmp_path / "c").sequences
    for text, words in (("0.5 " * 99, "99 numbers"), ("", "0 numbers"), ("0.5 " * 287 + "nan", "values from"),
                        ("0.5 " * 287 + "2", "values from"), ("zero " * 288, "could not convert")):
        (tmp_path / "GT0.csv").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=f"GT0.csv: .*{words}.*3 x 3 x 4 x 8 numbers"):
            find_truth(tmp_path, str(tmp_path), sequences)
    with pytest.raises(InputError, match="--gt .*nowhere: holds neither"):
        find_truth(tmp_path, str(tmp_path / "nowhere"), sequences)
    (tmp_path / "GT0.csv").write_text("0.5\n" * 288, encoding="utf-8")
    assert find_truth(tmp_path, str(tmp_path), sequences)[0].eq(0.5).all()


# the program, a full disk, concurrent starts


def test_the_program_ends_in_one_line_that_names_the_flag(tmp_path):
    for mode in ("train", "val"):
        write_numbered(tmp_path, mode, range(9))
    (tmp_path / "train/train_label/frame000004.png").unlink()
    flags = ["--DR", tmp_path, "--save_root", tmp_path / "run", "--cache_dir", tmp_path / "c", "--device", "cpu"]
    check_error(run_inside("Trainer.py", *flags, *SMALL), "frame000004.png: has no pose image", "--skip_bad")
    check_error(run_inside("Trainer.py", *flags, *SMALL, "--skip_bad", "--train_vi_len", 5), "has 4 frames")


def test_a_full_disk_under_the_cache_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    write_numbered(tmp_path, "val", range(3))
    with pytest.raises(InputError, match="cannot write the image cache .No space left.*--cache_dir"):
        Dataset_Dance(tmp_path, "val", 4, 8, cache_dir=tmp_path / "c").decode()
    assert not list((tmp_path / "c").glob("*.part"))


def test_concurrent_starts_decode_once(tmp_path):
    """Two processes that want the same images at the same time: one decodes, the other waits and maps."""
    write_numbered(tmp_path, "val", range(200), size=(64, 32))
    code = (
        "import sys, time; from pathlib import Path; import modules.data.image_cache as cache\n"
        "original = cache.read_image\n"
        "cache.read_image = lambda *a: [time.sleep(0.005)] and original(*a)\n"
        f"files = sorted(Path({str(tmp_path / 'val/val_img')!r}).iterdir())\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        f"print(cache.cached_images(files, 4, 8, Path({str(tmp_path / 'cache')!r}), 1, 'x')[0][:, 0, 0, 0].tolist())"
    )
    command = [sys.executable, "-c", code]
    starts = [subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=-1, text=True) for _ in range(2)]
    for process in starts:
        assert process.stdout.readline() == "ready\n"
    for process in starts:
        process.stdin.write("go\n")
        process.stdin.flush()
    texts = [process.communicate()[0] for process in starts]
    assert all(str(list(range(200))) in text for text in texts)
    assert sum("Cached 200 images" in text for text in texts) == 1
