"""Files from anybody, full disks, concurrent starts: one line and exit code 2, or a correct run; never a traceback."""

import functools
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import time
import zipfile
import zlib

import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL, check_error, run_inside, write_numbered, write_picture
from PIL import Image

from modules.data.image_cache import cached_images, read_image
from modules.model.checkpoint import load_checkpoint, model_from_checkpoint, save_checkpoint
from modules.runtime import InputError
from modules.train.optimizers import build_optimizers
from modules.train.resume import check_training, load_optimizer
from Trainer import Trainer

TINY = [*SMALL, "--preset", "template", "--device", "cpu", "--num_epoch", 1, "--epoch_steps", 2]


@pytest.fixture(scope="module")
def last(dance, tmp_path_factory):
    """last.ckpt of a run that was stopped within its second epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        done, original = [], Trainer.step

        def step(self, *arguments):
            done.append(1)
            if len(done) == 3:
                os.kill(os.getpid(), 15)
            return original(self, *arguments)

        patch.setattr(Trainer, "step", step)
        result = run_inside("Trainer.py", "--DR", dance, "--save_root", folder, *TINY, "--num_epoch", 2)
    assert result.returncode == 143, result.stderr
    return folder / "last.ckpt"


def use(path):
    """What both programs do with a checkpoint: build its model, and go on from it. Returns the predicted frames."""
    contents = load_checkpoint(path)
    model, (height, width) = model_from_checkpoint(contents, path)
    if check_training(contents, path):
        for optimizer in build_optimizers("Adam", model, 1e-3, 0.0):
            load_optimizer(optimizer, contents, path)
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
    if height * width > 4096 or model.config["arch"] != "template":
        return None
    with torch.no_grad():
        return model.rollout(torch.zeros(1, 3, height, width), torch.zeros(1, 2, 3, height, width)).frames


def places(value, path=()):
    """Every place in a nested value: a (container, key) pair."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from places(item)


JUNK = [None, -1, 10**30, float("nan"), float("inf"), "", "x" * 10**6, [], {}, True, 1e300, torch.zeros(0),
        torch.zeros(1).expand(10**6, 10**6), torch.full((2, 2), float("nan")), torch.zeros(3, dtype=torch.complex64),
        torch.eye(3).to_sparse(), torch.ones(2, device="meta"), [[[[[[]]]]]], {1: {2: {3: 4}}}]


@functools.cache
def loaded(path):
    return torch.load(path, weights_only=True)


def copy_of(path):
    """The nested contents of a checkpoint, to be changed; the tensors are the same."""
    def copied(value):
        if isinstance(value, dict):
            return {key: copied(item) for key, item in value.items()}
        return [copied(item) for item in value] if isinstance(value, list) else value

    return copied(loaded(path))


def damage(rng, last, path):
    """Write a checkpoint with one random fault to `path`."""
    kind = rng.choice(["flip", "flip", "cut", "rekey", "replace", "replace", "replace"])
    if kind in ("flip", "cut"):
        data = bytearray(last.read_bytes())
        for _ in range(rng.choice([1, 10, 1000])):
            # the pickle and the directory at the ends decide more than the weights between them
            low, high = rng.choice([(0, 20_000), (len(data) - 20_000, len(data)), (0, len(data))])
            data[rng.randrange(low, high)] = rng.randrange(256)
        path.write_bytes(data if kind == "flip" else data[: rng.randrange(len(data))])
        return kind
    contents = copy_of(last)
    # a part first, then a place in it: else nearly every fault were in one of the many weights
    part = contents[rng.choice(["state_dict", "config", "training", "optimizer", "settings"])]
    container, key = rng.choice([*places(part), *[(contents, key) for key in contents]])
    if kind == "replace":
        container[key] = rng.choice(JUNK)
    else:
        value = container.pop(key)
        if rng.random() < 0.5 and isinstance(container, dict):
            container[rng.choice(["other", 7, "mode", ("a", 1)])] = value
    torch.save(contents, path)
    return kind


def test_200_damaged_checkpoints_are_refused_in_one_line_or_work(last, tmp_path):
    rng, outcomes, path = random.Random(0), [], tmp_path / "last.ckpt"
    for i in range(200):
        kind = damage(rng, last, path)
        begin = time.monotonic()
        try:
            frames = use(path)
            assert frames is None or torch.isfinite(frames).all()
            outcomes.append("works")
        except InputError as error:
            assert str(path) in str(error), (i, kind)
            outcomes.append(kind)
        assert time.monotonic() - begin < 10, (i, kind)
    assert {"flip", "cut", "rekey", "replace", "works"} == set(outcomes)
    assert outcomes.count("works") < 100


def test_damaged_checkpoints_in_both_programs(dance, last, tmp_path):
    rng, codes = random.Random(1), []
    flags = ["--DR", dance, "--save_root", tmp_path / "run", *TINY, "--num_epoch", 1]
    (tmp_path / "run").mkdir()
    for i in range(24):
        path = tmp_path / "run" / "last.ckpt"
        damage(rng, last, path)
        for result in (run_inside("Trainer.py", *flags, "--num_epoch", 2) if i % 2 else run_inside(
                       "Tester.py", "--DR", dance, "--save_root", tmp_path / "out", "--ckpt_path", path),):
            codes.append(result.returncode)
            assert result.returncode == 0 or check_error(result, "") is None, i
    assert codes.count(2) > 5


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_50_damaged_pickles_are_refused_in_one_line_or_work(last, tmp_path, legacy):
    """The pickle within the file, where no checksum tells that it is not what torch.save wrote."""
    rng, outcomes, path = random.Random(2), [], tmp_path / "last.ckpt"
    contents = torch.load(last, weights_only=True)
    contents = {name: contents[name] for name in ("state_dict", "config", "settings")}
    torch.save(contents, path, _use_new_zipfile_serialization=not legacy)
    if legacy:
        whole, files = path.read_bytes(), {}
        end = whole.index(b"frame_size") + 1000  # its pickle comes first, the weights after it
    else:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        pickled = next(name for name in files if name.endswith("data.pkl"))
        whole = files[pickled]
        end = len(whole)
    for i in range(50):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 3, 30])):
            data[rng.randrange(end)] = rng.choice([rng.randrange(256), *b"RbcjrX.(tseau"])
        if legacy:
            path.write_bytes(data)
        else:
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in (files | {pickled: bytes(data)}).items():
                    archive.writestr(name, content)
        begin = time.monotonic()
        try:
            use(path)
            outcomes.append("works")
        except InputError as error:
            assert str(path) in str(error), i
            outcomes.append("refused")
        assert time.monotonic() - begin < 10, i
    assert outcomes.count("refused") > 15


def test_a_claimed_size_costs_nothing(last, tmp_path):
    contents = torch.load(last, weights_only=True)
    for name, value in (("F_dim", 1 << 14), ("F_dim", 10**9), ("N_dim", "12"), ("L_dim", 1), ("arch", 3)):
        config = {"model": contents["config"]["model"] | {name: value}, "frame_size": [16, 32]}
        save_checkpoint(tmp_path / "a.ckpt", contents | {"config": config})
        with pytest.raises(InputError, match="a.ckpt"):
            use(tmp_path / "a.ckpt")
    for size in ([0, 32], [16], [10**9, 10**9], "16", None):
        save_checkpoint(tmp_path / "a.ckpt", contents | {"config": contents["config"] | {"frame_size": size}})
        with pytest.raises(InputError, match="frame_size"):
            use(tmp_path / "a.ckpt")


def test_a_checkpoint_that_unpacks_to_more_than_it_is_is_refused(last, tmp_path):
    with zipfile.ZipFile(last) as old, zipfile.ZipFile(tmp_path / "a.ckpt", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(InputError, match="compressed"):
        load_checkpoint(tmp_path / "a.ckpt")


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


def test_a_full_disk_keeps_the_older_checkpoint(dance, small_disk):
    folder = small_disk / "run"
    flags = ["--DR", dance, *TINY, "--save_root", folder]
    path = folder / "last.ckpt"
    save_checkpoint(path, {"state_dict": {}, "old": torch.zeros(50_000)})
    before = path.read_bytes()
    with pytest.raises(InputError, match="last.ckpt: cannot be written .*what was there before is kept"):
        save_checkpoint(path, {"state_dict": {}, "new": torch.zeros(90_000)})
    assert path.read_bytes() == before and [p.name for p in folder.iterdir()] == ["last.ckpt"]
    path.unlink()
    check_error(run_inside("Trainer.py", *flags, "--num_epoch", 3), "cannot be written", "No space left", "is kept")
    assert not list(folder.rglob("*.tmp"))
    if path.exists():
        load_checkpoint(path)


def test_a_full_disk_under_the_cache_is_one_line(dance, small_disk, tmp_path):
    (small_disk / "ballast").write_bytes(bytes(330_000))
    result = run_inside("Trainer.py", "--DR", dance, *TINY, "--save_root", tmp_path / "r", "--cache_dir", small_disk)
    check_error(result, "cannot write the picture cache", "No space left", "--cache_dir")
    assert not list(small_disk.glob("*.tmp"))


def test_folders_that_cannot_be_written_are_one_line(dance, trained, tmp_path):
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "run"
    check_error(run_inside("Trainer.py", "--DR", dance, *TINY, "--save_root", place), "file", "Not a directory")
    here = ["--save_root", tmp_path / "r", "--cache_dir", place]
    check_error(run_inside("Trainer.py", "--DR", dance, *TINY, *here), "Not a directory")
    there = ["--save_root", place, "--ckpt_path", trained[0] / "best.ckpt"]
    check_error(run_inside("Tester.py", "--DR", dance, *there), "Not a directory")
    check_error(run_inside("Trainer.py", "--DR", "x" * 5000, *TINY, "--save_root", tmp_path / "r"), "name too long")


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


def test_nothing_is_written_outside_save_root_and_cache(dance, tmp_path):
    """Both programs, run in an empty folder as a user with an empty home."""
    before = {path: path.stat().st_mtime_ns for path in dance.rglob("*")}
    (tmp_path / "here").mkdir()
    environment = os.environ | {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment |= {"TMPDIR": str(tmp_path / "temporary"), "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    train = ["Trainer.py", "--save_root", tmp_path / "run", *TINY]
    test = ["Tester.py", "--save_root", tmp_path / "out", "--ckpt_path", tmp_path / "run/best.ckpt"]
    for script, *flags in (train, test):
        command = [sys.executable, str(ROOT / script), "--DR", str(dance), *map(str, flags)]
        result = subprocess.run(command, cwd=tmp_path / "here", env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    assert {path: path.stat().st_mtime_ns for path in dance.rglob("*")} == before
    written = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"run", "out", "cache"}
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"pose2video"}


@pytest.mark.parametrize("flags", [["--N_dim", 1], ["--L_dim", 1], ["--F_dim", 4], ["--D_out_dim", 4],
                                   ["--arch", "multiscale", "--frame_H", 20]])
def test_sizes_of_no_model_are_one_line(dance, tmp_path, flags):
    result = run_inside("Trainer.py", "--DR", dance, "--save_root", tmp_path, *TINY, *flags)
    check_error(result, "--arch", "multiples of 8" if "multiscale" in flags else "does not describe a model")
