"""Shared by all tests: the two programs run as a user runs them, and small data sets."""

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
os.environ["OMP_NUM_THREADS"] = "1"  # small images; more threads than cores would wait for each other
os.environ.setdefault("MPLCONFIGDIR", str(Path(tempfile.gettempdir(), "pose2video_fonts")))  # a list of fonts is slow

import numpy as np
import pytest
import torch
from PIL import Image

from modules.runtime import run_program

ROOT = Path(__file__).parent.parent

SMALL = ["--F_dim", 16, "--L_dim", 8, "--N_dim", 4, "--D_out_dim", 16, "--frame_H", 16, "--frame_W", 32,
         "--train_vi_len", 4]


def pytest_collection_modifyitems(items):
    """The longest tests come first, so that no worker is left with one of them at the end."""
    items.sort(key=lambda item: item.path.name not in ("test_resume.py", "test_distributed.py", "test_lab.py"))


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory):
    """Tests decode into a cache of their own."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


def run(script, *arguments, env=None):
    """Run `python script arguments…` in the project's folder; returns the finished process with its text."""
    command = [sys.executable, script, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, encoding="utf-8")


def run_inside(script, *arguments):
    """The same within this process, which spares the seconds of importing torch again."""
    program = importlib.import_module(Path(script).stem)
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv, code = [script, *map(str, arguments)], 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run_program(program.main)
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = before
    return subprocess.CompletedProcess(sys.argv, code, out.getvalue(), err.getvalue())


def check_error(result, *words):
    """The program ended with exit code 2 and one line on stderr that holds the words; no traceback."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    line = [line for line in result.stderr.splitlines() if "error:" in line]
    assert len(line) == 1, result.stderr
    for word in words:
        assert str(word) in line[0]


def write_picture(path, value, size=(8, 4)):
    """A PNG of one grey level 0..255; size is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def write_numbered(root, mode, numbers, size=(8, 4)):
    """Frames whose grey level is their number, poses whose grey level is 255 - number."""
    for number in numbers:
        write_picture(root / mode / f"{mode}_img" / f"frame{number:06d}.png", number, size)
        write_picture(root / mode / f"{mode}_label" / f"frame{number:06d}.png", 255 - number, size)


@pytest.fixture(scope="session")
def dance(tmp_path_factory):
    """A tiny data set of the project's own, at 16x32."""
    out = tmp_path_factory.mktemp("data") / "dance"
    result = run_inside(
        "scripts/make_dataset.py", out, "--height", 16, "--width", 32, "--train_frames", 60, "--train_clips", 2,
        "--val_frames", 12, "--test_sequences", 2, "--test_frames", 10,
    )
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture(scope="session")
def trained(dance, tmp_path_factory):
    """A run of two epochs of the template architecture on the tiny data set: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    arguments = ["--preset", "template", "--num_epoch", 2, "--per_save", 1, "--device", "cpu", "--fast_partial", 0.5]
    result = run_inside("Trainer.py", "--DR", dance, "--save_root", folder, *SMALL, *arguments)
    assert result.returncode == 0, result.stderr
    return folder, result


@pytest.fixture()
def started(monkeypatch):
    """The programs run inside this process; a list of the calls, each (program, flags)."""
    import study

    calls = []

    def call(program, *arguments):
        words = [str(word) for word in arguments]
        calls.append((program, words))
        result = run_inside(program, *words)
        assert result.returncode == 0, result.stderr

    monkeypatch.setattr(study, "call", call)
    return calls


def noise_frames(*shape, seed=0):
    """Random uint8 images."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))
