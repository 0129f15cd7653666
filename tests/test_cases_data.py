"""Image files and true frames from anybody, full disks, concurrent starts: a correct array or one line of error."""

import os
import random
import shutil
import socket
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

TINY = [*SMALL, "--preset", "template", "--device", "cpu", "--num_epoch", 1, "--epoch_steps", 2]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth=8, color=2, data=b""):
    """The bytes of a PNG whose header claims these sizes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def png16(pixels):
    """The bytes of a 16-bit PNG of (h, w, channels)."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png(width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], rows)


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


def lines(background, line):
    """Two vertical lines on a background, (8, 8, 4): RGBA."""
    pixels = np.full((8, 8, 4), background, dtype=np.uint8)
    pixels[:, 2:4] = pixels[:, 6:] = line
    return Image.fromarray(pixels)


CLEAR, RED = (0, 0, 0, 0), (200, 0, 0, 255)
UPRIGHT = Image.Exif()
UPRIGHT[0x0112] = 6  # a telephone held upright: turned by 90 degrees


@pytest.mark.parametrize("name, image, first, third", [
    ("1.png", lines(CLEAR, (0, 0, 0, 255)), 255, 0), ("2.png", lines(CLEAR, RED), 255, 200),
    ("3.png", lines(CLEAR, RED).quantize(4), 255, 200), ("4.webp", lines(CLEAR, RED), 255, 200),
    ("5.png", lines(CLEAR, (200, 200, 200, 255)).convert("LA"), 255, 200),
    ("6.png", lines((0, 0, 0, 255), (255, 255, 255, 255)).convert("1"), 0, 255),
    ("7.png", lines((9, 9, 9, 255), RED).convert("L"), 9, 60),
    ("8.bmp", lines((9, 9, 9, 255), RED).convert("RGB").quantize(4), 9, 200),
    ("9.jpg", lines((0, 0, 0, 255), RED).convert("RGB").convert("CMYK"), 0, 200),
    ("a.jpg", lines((0, 0, 0, 255), (200, 200, 200, 255)).rotate(90).convert("RGB"), 0, 200),
    ("b.PPM", lines((9, 9, 9, 255), RED).convert("RGB"), 9, 200),
])
def test_8_bit_images_of_every_mode(tmp_path, name, image, first, third):
    image.save(tmp_path / name, quality=100, lossless=True, exif=UPRIGHT if name == "a.jpg" else Image.Exif())
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
    image, samples = Image.fromarray(pixels), [png16(pixels.astype(int) * 200)]
    kinds = {"a.png": image, "b.png": image.convert("P"), "c.jpg": image, "d.png": image.convert("LA"), "f.bmp": image}
    for name, sample in kinds.items():
        sample.save(tmp_path / name)
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
    (lambda path: path.write_bytes(png(100_000, 100_000)), "not a readable image"),
    (lambda path: path.write_bytes(png(9_000, 9_000)), "not a readable image .Image size"),
    (lambda path: path.write_bytes(b""), "not a readable image"),
    (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not a readable image"),
    (lambda path: path.write_bytes(b"Pf\n8 4\n-1.0\n" + bytes(128)), "more than 8 bits a channel"),
    (lambda path: path.write_bytes(b"P5\n8 4\n65535\n" + bytes(64)), "more than 8 bits a channel"),
    (lambda path: path.symlink_to("nowhere.png"), "not a readable image"),
    (lambda path: path.symlink_to(path), "not a readable image"),
    (lambda path: path.symlink_to("/dev/zero"), "not a file"),
    (lambda path: path.mkdir(), "not a file"),
    (lambda path: os.mkfifo(path), "not a file"),
    (lambda path: socket.socket(socket.AF_UNIX).bind(os.path.relpath(path)), "not a file"),
])
def test_a_hostile_image_is_one_line(tmp_path, monkeypatch, make, words):
    monkeypatch.chdir(tmp_path)
    write_numbered(tmp_path, "val", range(3))
    path = tmp_path / "val/val_img/frame000001.png"
    path.unlink()
    make(path)
    with pytest.raises(InputError, match=f"frame000001.png: .*{words}.*expected images that can be read; --skip_bad"):
        Dataset_Dance(tmp_path, "val", 4, 8, cache_dir=tmp_path / "c").decode()


def test_odd_names_and_links_are_read(tmp_path):
    odd = tmp_path / "ein Ordner mit ünïcode 舞" / "LAB4"
    for kind in ("img", "label"):
        folder = odd / "val" / f"val_{kind}"
        write_picture(tmp_path / "elsewhere.png", 7)
        folder.mkdir(parents=True)
        (folder / "舞 7 (copy) 3.PNG").symlink_to(tmp_path / "elsewhere.png")
        write_picture(folder / "舞 7 (copy) 4.PNG", 9)
        os.rename(folder / "舞 7 (copy) 4.PNG", os.fsencode(folder) + b"/\xff\xfe 4.PNG")
        write_picture(folder / "f²³.png", 0)
        write_picture(folder / ".hidden5.png", 0)
    with pytest.raises(InputError, match="f²³.png: a file name without a number"):
        Dataset_Dance(odd.parent, "val", 4, 8)
    frames = Dataset_Dance(odd.parent, "val", 4, 8, cache_dir=tmp_path / "c", skip_bad=True).frames
    assert frames[:, 0, 0, 0].tolist() == [7, 9]


# true frames as numbers


@pytest.mark.parametrize("text, words", [
    ("0.5 " * 99, "99 numbers"), ("", "0 numbers"), ("0.5 " * 287 + "nan", "values from"),
    ("0.5 " * 287 + "2", "values from"), ("0.5 " * 287 + "-1", "values from"), ("zero " * 288, "could not convert"),
    ("\x00" * 100, "GT0.csv"),
], ids=["few", "none", "nan", "above", "below", "words", "zeros"])
def test_hostile_true_frames_are_one_line(tmp_path, text, words):
    for number in range(3):
        write_picture(tmp_path / f"test/test_img/0/{number}.png", number)
        write_picture(tmp_path / f"test/test_label/0/{number}.png", number)
    sequences = Dataset_Dance(tmp_path, "test", 4, 8, cache_dir=tmp_path / "c").sequences
    (tmp_path / "GT0.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"{words}.*3 x 3 x 4 x 8 numbers"):
        find_truth(tmp_path, str(tmp_path), sequences)
    with pytest.raises(InputError, match="--gt .*nowhere: holds neither"):
        find_truth(tmp_path, str(tmp_path / "nowhere"), sequences)
    (tmp_path / "GT0.csv").write_text("0.5\n" * 288, encoding="utf-8")
    assert find_truth(tmp_path, str(tmp_path), sequences)[0].eq(0.5).all()


# the programs, a full disk, concurrent starts


def test_a_program_ends_in_one_line_that_names_the_flag(tmp_path):
    for mode in ("train", "val"):
        write_numbered(tmp_path, mode, range(9))
    (tmp_path / "train/train_label/frame000004.png").unlink()
    flags = ["--DR", tmp_path, "--save_root", tmp_path / "run", "--cache_dir", tmp_path / "c"]
    check_error(run_inside("Trainer.py", *flags, *TINY), "frame000004.png: has no pose image", "--skip_bad")
    check_error(run_inside("Trainer.py", *flags, *TINY, "--skip_bad", "--train_vi_len", 5), "has 4 frames")
    assert "--skip_bad" in run_inside("Tester.py", "--help").stdout


def test_a_full_disk_under_the_cache_is_one_line(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        write_numbered(tmp_path, "val", range(100))
        with pytest.raises(InputError, match="cannot write the image cache .No space left.*--cache_dir"):
            Dataset_Dance(tmp_path, "val", 32, 64, cache_dir=disk).decode()
        assert not list(disk.glob("*.part"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


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
