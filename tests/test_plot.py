"""Curves: what each line shows against hand values, and scripts/plot.py on good and bad run folders."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from conftest import ROOT, check_error, run_inside
from PIL import Image

from modules.files import finite, write_json
from modules.show.curves import (
    FIGURES,
    OF_A_RUN,
    draw_curves,
    draw_scores,
    draw_training,
    plot_frames,
    plot_losses,
    plot_tfr,
    plot_validation,
    styled,
)
from modules.show.runs import best_validation, read_run

HEADER = "epoch,loss,mse,kl,beta,tfr,lr,val_psnr,seconds,frames_per_second"
NAMES = set(FIGURES) - {"posterior_share"}  # a metrics.csv of earlier versions has no such column


def write_run(folder, loss=(2.0, 1.0, 0.5), val_psnr=("", "20.5", "19.0"), scores=None):
    folder.mkdir(parents=True)
    rows = [f"{i},{value},{value / 10},{value * 7},{i / 2},{1 - i / 4},1e-{i + 3},{psnr},3.0,99"
            for i, (value, psnr) in enumerate(zip(loss, val_psnr, strict=True))]
    (folder / "metrics.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    if scores:
        (folder / "validation.json").write_text(json.dumps({"epoch": 2, "psnr_per_frame": scores}))
    return folder


def texts(path):
    return " ".join(element.text or "" for element in ElementTree.parse(path).iter() if element.tag.endswith("text"))


def test_several_runs_overlay(tmp_path):
    a = write_run(tmp_path / "a", scores={"val0": [30.0, 20.0]})
    b = write_run(tmp_path / "b", loss=(-1.0, -2.0, -3.0))
    out = tmp_path / "figures"
    names = ["$C_i$", "Monotonic"]  # $ is no formula
    result = run_inside("plot.py", a, b, "--out", out, "--format", "svg", "--names", *names)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in out.iterdir()} == {f"{name}.svg" for name in NAMES}
    for name in NAMES:
        words = texts(out / f"{name}.svg")
        assert "$C_i$" in words and "Monotonic" in words, name
    assert "mathdefault" not in texts(out / "loss_log.svg")
    assert "total loss (linear)" in texts(out / "loss_log.svg"), "a loss below 0 has no logarithm"
    assert "Monotonic: no PSNR per frame" in result.stdout
    (tmp_path / "begun").mkdir()
    check_error(run_inside("plot.py", a, tmp_path / "begun", "--out", out), "begun/metrics.csv: not found")


def test_a_trained_run_and_a_testers_folder(trained, tmp_path):
    result = run_inside("plot.py", trained[0])
    assert result.returncode == 0, result.stderr
    assert {path.stem for path in (trained[0] / "curves").iterdir()} == set(FIGURES)
    read = read_run(trained[0])
    assert read.scored_on == "validation" and list(read.scores) == ["val0"] and len(read.scores["val0"]) == 11
    assert np.mean(read.scores["val0"]) == pytest.approx(read.history[-1]["val_psnr"], abs=1e-6)
    assert read.settings["train_vi_len"] == 4
    write_json(tmp_path / "metrics.json", {"sequences": [{"name": "0", "psnr_per_frame": [20.0, None]}]})
    assert run_inside("plot.py", tmp_path, "--format", "pdf").returncode == 0
    assert [path.name for path in (tmp_path / "curves").iterdir()] == ["psnr_per_frame.pdf"]
    assert (tmp_path / "curves/psnr_per_frame.pdf").read_bytes().startswith(b"%PDF")


def test_lines_are_the_numbers_of_the_files(tmp_path):
    runs = [read_run(write_run(tmp_path / "a"))]
    for axis, factor in zip(plot_losses(runs, "linear").axes, (1, 0.1, 7), strict=True):
        line = axis.lines[0]
        assert line.get_xdata().tolist() == [0, 1, 2]
        assert line.get_ydata().tolist() == pytest.approx([2.0 * factor, 1.0 * factor, 0.5 * factor])
    assert plot_losses(runs, "log").axes[0].get_yscale() == "log"
    ratio, loss = plot_tfr(runs).axes
    assert ratio.lines[0].get_ydata().tolist() == [1.0, 0.75, 0.5]
    assert loss.lines[0].get_ydata().tolist() == [2.0, 1.0, 0.5]
    validation = plot_validation(runs).axes[0]
    assert validation.lines[0].get_xdata().tolist() == [1, 2], "epoch 0 was not validated"
    assert best_validation(runs[0].history) == (1, 20.5)


def test_band_is_median_and_range_over_sequences(tmp_path):
    scores = {"0": [30.0, 20.0, 10.0], "1": [20.0, 22.0], "2": [25.0, 90.0, 14.0]}
    axis = plot_frames([read_run(write_run(tmp_path / "a", scores=scores))]).axes[0]
    assert axis.lines[0].get_xdata().tolist() == [2, 3, 4], "the given frame has no score"
    assert axis.lines[0].get_ydata().tolist() == [25.0, 22.0, 12.0]
    band = axis.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == 90.0 and band[:, 1].min() == 10.0


def test_figures_of_a_training_run_are_those_of_plot(tmp_path):
    run = read_run(write_run(tmp_path / "a", scores={"val0": [30.0, 20.0]}))
    draw_training(run.history, tmp_path / "figures")
    draw_scores(run.scores, tmp_path / "figures/psnr_per_frame.png", "validation")
    draw_curves([run], tmp_path / "curves")
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == set(OF_A_RUN) - {"posterior_share"}
    for name in ("val_psnr", "psnr_per_frame"):
        figures, curves = (Image.open(tmp_path / folder / f"{name}.png") for folder in ("figures", "curves"))
        assert np.array_equal(np.asarray(figures), np.asarray(curves)), name
        assert 450 < curves.width < 560, "one column, 3.4 inches at 150 dots"


def test_no_two_runs_look_alike():
    assert len({(style["color"], str(style["linestyle"])) for _, style in styled([None] * 28)}) == 28


def test_a_notebooks_environment_breaks_nothing(tmp_path):
    """Colab and Kaggle export a backend of theirs to every program; the cache folder may not be writable."""
    (tmp_path / "file").write_text("")
    environment = os.environ | {"MPLBACKEND": "module://no_such.backend", "XDG_CACHE_HOME": str(tmp_path / "file")}
    environment.pop("MPLCONFIGDIR", None)
    program = f"""
import sys, pathlib, Trainer, Tester, modules.show.curves
print([name for name in ("matplotlib", "imageio", "imageio_ffmpeg", "PIL.ImageFont") if name in sys.modules])
modules.show.curves.draw_scores({{"0": [20.0, 30.0]}}, pathlib.Path({str(tmp_path / "a.png")!r}), "sequence")
print("matplotlib.pyplot" in sys.modules)
"""
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "[]" and lines[-1] == "False", "nothing is imported before it draws"
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_numbers_that_are_not_finite_leave_json_readable(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1.5, float("nan")], "b": (float("inf"), "x")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1.5, None], "b": [None, "x"]}
    assert finite(-0.25) == -0.25


def test_bad_folders_and_arguments_are_one_line(tmp_path):
    contents = {
        None: "metrics.csv: not found",
        HEADER: "no finished epoch",
        "epoch,loss\n0,1\n": "no column mse",
        f"{HEADER}\n0,1,2,3,4,5,6,7,8,9\n1,x,2,3,4,5,6,7,8,9": "line 3: a number is missing",
        f"{HEADER}\n0,1,2,,4,5,6,7,8,9": "line 2: a number is missing",
    }
    for text, words in contents.items():
        if text is not None:
            (tmp_path / "metrics.csv").write_text(text)
        check_error(run_inside("plot.py", tmp_path), words)
    check_error(run_inside("plot.py", tmp_path, tmp_path), "--out")
