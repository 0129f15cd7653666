"""A notebook's cell: `!python Trainer.py …` with what Colab and Kaggle export, and little that may be written to."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT, SMALL

QUIET = 12  # lines on stderr that a short run may write


@pytest.fixture(scope="module")
def cell(dance, tmp_path_factory):
    """Both programs run in cells: what they returned, and the folder that all their writing should be in."""
    place = tmp_path_factory.mktemp("notebook")
    (place / "temporary").mkdir()
    (place / "home").touch()  # nobody can make a folder in it, root neither
    gone = ("XDG_CACHE_HOME", "USER", "LOGNAME", "MPLCONFIGDIR")
    environment = {name: value for name, value in os.environ.items() if name not in gone} | {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline", "COLAB_RELEASE_TAG": "release-colab_20250101",
        "KAGGLE_KERNEL_RUN_TYPE": "Interactive", "JPY_PARENT_PID": "1", "PYTHONPATH": "/env/python:",
        "HOME": str(place / "home" / "missing"), "TMPDIR": str(place / "temporary"), "TERM": "xterm-color",
        "CLICOLOR": "1", "PAGER": "cat", "GIT_PAGER": "cat", "PYTHONUSERBASE": "/root/.local", "LANG": "C",
        "PYDEVD_USE_FRAME_EVAL": "NO", "TF_CPP_MIN_LOG_LEVEL": "1", "CUDA_VISIBLE_DEVICES": "",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for path in [dance, *dance.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted(dance.rglob("*"))

    def start(program, *flags):
        command = [sys.executable, program, "--DR", dance, "--save_root", place / "run", *flags]
        return subprocess.run(
            [*map(str, command)], cwd=ROOT, env=environment, capture_output=True, encoding="utf-8"
        )

    short = ["--preset", "template", "--num_epoch", 2, "--epoch_steps", 2, "--val_every", 2]
    trained = start("Trainer.py", *SMALL, *short)
    tested = start("Tester.py", "--ckpt_path", place / "run/best.ckpt", "--no_baselines")
    for path in [dance, *dance.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert sorted(dance.rglob("*")) == before, "nothing is written beside the data"
    return trained, tested, place


@pytest.mark.parametrize("program", [0, 1], ids=["Trainer", "Tester"])
def test_a_program_runs_in_a_cell(cell, program):
    result = cell[program]
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr and len(result.stderr.splitlines()) <= QUIET, result.stderr
    assert "\r" not in result.stderr + result.stdout and "\x1b" not in result.stderr, "a cell keeps every redrawing"


def test_figures_are_files(cell):
    assert (cell[2] / "run/figures/loss_curve.png").stat().st_size > 1000
    assert (cell[2] / "run/seq0/panel.png").exists() and (cell[2] / "run/metrics.json").exists()


def test_nothing_is_written_outside_the_run_and_the_cache(cell):
    """Where there is no home, the cache is in the folder for temporary files."""
    place = cell[2]
    assert {path.name for path in place.iterdir()} == {"run", "home", "temporary"}
    inside = [path for path in (place / "temporary").iterdir() if path.is_file() or any(path.iterdir())]
    assert [path.name for path in inside] == [next(path.name for path in inside if path.name.startswith("pose2video"))]
