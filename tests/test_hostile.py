"""Files from anybody, full disks, concurrent starts: one line and exit code 2, or a correct run; never a traceback."""

import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from conftest import ROOT, SMALL, check_error, run_inside, write_numbered, write_picture
from PIL import Image

from modules.data.image_cache import cached_images, read_image
from modules.runtime import InputError

TINY = [*SMALL, "--preset", "template", "--device", "cpu", "--num_epoch", 1, "--epoch_steps", 2]


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth=8, color=2, data=b""):
    """The bytes of a PNG whose header claims these sizes."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(data)) + png_chunk(b"IEND", b"")


def test_200_damaged_pictures_are_refused_in_one_line_or_read(tmp_path):
    rng, path, read = random.Random(0), tmp_path / "frame000001.png", 0
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8))
    samples = []
    kinds = {"a.png": pixels, "b.png": pixels.convert("P"), "c.jpg": pixels, "d.png": pixels.convert("LA")}
    for name, picture in (kinds | {"e.gif": pixels, "f.bmp": pixels}).items():
        picture.save(tmp_path / name)
        samples.append((tmp_path / name).read_bytes())
    for i in range(200):
        data = bytearray(rng.choice(samples))
        for _ in range(rng.choice([0, 1, 5, 100])):
            data[rng.randrange(rng.choice([60, len(data)]))] = rng.randrange(256)
        path.write_bytes(data[: rng.choice([len(data), len(data), rng.randrange(len(data))])])
        begin = time.monotonic()
        try:
            assert read_image(path, 4, 8).shape == (3, 4, 8)
            read += 1
        except InputError as error:
            assert "frame000001.png: " in str(error) and len(str(error)) < 500, i
        assert time.monotonic() - begin < 5
    assert 20 < read < 150


@pytest.mark.parametrize("make, words", [
    (lambda path: path.write_bytes(png(100_000, 100_000)), "not a readable picture"),
    (lambda path: path.write_bytes(png(9_000, 9_000)), "claims 9000x9000 pixels"),
    (lambda path: path.write_bytes(b""), "not a readable picture"),
    (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not a readable picture"),
    (lambda path: path.symlink_to("nowhere.png"), "cannot be read"),
    (lambda path: path.symlink_to(path), "cannot be read"),
    (lambda path: path.symlink_to("/dev/zero"), "not a file"),
    (lambda path: path.mkdir(), "not a file"),
    (lambda path: os.mkfifo(path), "not a file"),
    (lambda path: socket.socket(socket.AF_UNIX).bind(os.path.relpath(path)), "not a file"),
])
def test_a_hostile_picture_in_a_data_set_is_one_line(tmp_path, monkeypatch, make, words):
    monkeypatch.chdir(tmp_path)
    write_numbered(tmp_path, "train", range(5))
    write_numbered(tmp_path, "val", range(3))
    path = tmp_path / "val/val_img/frame000001.png"
    path.unlink()
    make(path)
    flags = ["--DR", tmp_path, "--save_root", tmp_path / "run", "--cache_dir", tmp_path / "c"]
    result = run_inside("Trainer.py", *flags, *TINY)
    check_error(result, "frame000001.png", words)
    assert not list((tmp_path / "c").glob("*.tmp"))


def test_odd_names_and_links_are_read(tmp_path):
    odd = tmp_path / "ein Ordner mit ünïcode 舞" / "LAB4"
    for kind in ("img", "label"):
        folder = odd / "val" / f"val_{kind}"
        write_picture(tmp_path / "elsewhere.png", 7)
        folder.mkdir(parents=True)
        (folder / "舞 7 (copy) 3.PNG").symlink_to(tmp_path / "elsewhere.png")
        write_picture(folder / "舞 7 (copy) 4.PNG", 9)
        os.rename(folder / "舞 7 (copy) 4.PNG", os.fsencode(folder) + b"/\xff\xfe 4.PNG")
    from dataloader import Dataset_Dance

    frames = Dataset_Dance(odd.parent, "val", 4, 8, cache_dir=tmp_path / "c").frames
    assert frames[:, 0, 0, 0].tolist() == [7, 9]


@pytest.mark.parametrize("name, words", [
    ("frame.png", "without a number"), (f"frame{'9' * 200}.png", "too many digits"), ("f²³.png", "without a number"),
])
def test_odd_numbers_are_one_line(tmp_path, name, words):
    write_numbered(tmp_path, "val", range(3))
    write_picture(tmp_path / "val/val_img" / name, 0)
    check_error(run_inside("Trainer.py", "--DR", tmp_path, "--save_root", tmp_path / "run", *TINY), words)


@pytest.mark.parametrize("text, words", [
    ("0.5 " * 99, "99 numbers"), ("", "0 numbers"), ("0.5 " * 15_359 + "nan", "values from"),
    ("0.5 " * 15_359 + "2", "values from"), ("zero " * 15_360, "whitespace separated"), ("\x00" * 100, "GT0.csv"),
    ("0.5 " * 1_000_000, "bytes; expected"),
], ids=["few", "none", "nan", "range", "words", "zeros", "huge"])
def test_a_hostile_ground_truth_is_one_line(dance, trained, tmp_path, text, words):
    (tmp_path / "GT0.csv").write_text(text)
    flags = ["--DR", dance, "--save_root", tmp_path / "out", "--ckpt_path", trained[0] / "best.ckpt"]
    check_error(run_inside("Tester.py", *flags, "--gt", tmp_path), "GT0.csv", words)
    (tmp_path / "gt.csv").write_text("id,0\n" + text)
    check_error(run_inside("Tester.py", *flags, "--gt", tmp_path / "gt.csv"), "gt.csv")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 400 kB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(path)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_under_the_cache_is_one_line(dance, small_disk, tmp_path):
    (small_disk / "ballast").write_bytes(bytes(330_000))
    result = run_inside("Trainer.py", "--DR", dance, *TINY, "--save_root", tmp_path / "r", "--cache_dir", small_disk)
    check_error(result, "cannot write the picture cache", "No space left", "--cache_dir")
    assert not list(small_disk.glob("*.tmp"))


def test_concurrent_starts_decode_once(tmp_path):
    """Two processes that want the same pictures at the same time: one decodes, the other waits and maps."""
    write_numbered(tmp_path, "val", range(200), size=(64, 32))
    code = (
        "import sys, time; from pathlib import Path; import modules.data.image_cache as cache\n"
        "original = cache.read_image\n"
        "cache.read_image = lambda *a: [time.sleep(0.005)] and original(*a)\n"
        f"files = sorted(Path({str(tmp_path / 'val/val_img')!r}).iterdir())\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        f"print(cache.cached_images(files, 4, 8, Path({str(tmp_path / 'cache')!r}), 1, 'x')[:, 0, 0, 0].tolist())"
    )
    command = [sys.executable, "-c", code]
    starts = [subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=-1, text=True) for _ in range(2)]
    for process in starts:
        assert process.stdout.readline() == "ready\n"
    texts = [(process.stdin.write("go\n"), process.stdin.flush()) and process for process in starts]
    texts = [process.communicate(timeout=60)[0] for process in texts]
    assert all(str(list(range(200))) in text for text in texts)
    assert sum("Cached 200 pictures" in text for text in texts) == 1
    files = sorted((tmp_path / "val/val_img").iterdir())
    assert cached_images(files, 4, 8, tmp_path / "cache", 1, "x").shape == (200, 3, 4, 8)
