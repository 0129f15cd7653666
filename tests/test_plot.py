"""Curves: what each line shows against hand values, and scripts/plot.py on good and bad run folders."""

import json
import math
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from conftest import ROOT, check_error, run_inside
from PIL import Image

from modules.files import write_json
from modules.show.curves import FIGURES, OF_A_RUN, draw_curves, draw_scores, draw_training, styled
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
    names = ["$C_i$", "_Monotonic"]  # $ is no formula, and _ hides nothing
    result = run_inside("plot.py", a, b, "--out", out, "--format", "svg", "--names", *names)
    assert result.returncode == 0, result.stderr
    assert len({(style["color"], str(style["linestyle"])) for _, style in styled([None] * 28)}) == 28, "all differ"
    assert {path.name for path in out.iterdir()} == {f"{name}.svg" for name in NAMES}
    for name in NAMES:
        words = texts(out / f"{name}.svg")
        assert "$C_i$" in words and "_Monotonic" in words, name
    assert "mathdefault" not in texts(out / "loss_log.svg")
    assert "total loss (linear)" in texts(out / "loss_log.svg"), "a loss below 0 has no logarithm"
    assert "Monotonic: no PSNR per frame" in result.stdout
    (tmp_path / "begun").mkdir()
    some = run_inside("plot.py", a, tmp_path / "begun", "--out", tmp_path / "some")
    assert some.returncode == 0 and "left out: " in some.stderr and "begun/metrics.csv: not found" in some.stderr
    assert (tmp_path / "some/val_psnr.png").exists()
    check_error(run_inside("plot.py", tmp_path / "begun", tmp_path / "begun", "--out", out), "metrics.csv: not found")


def test_a_trained_run_and_a_testers_folder(trained, tmp_path):
    result = run_inside("plot.py", trained[0])
    assert result.returncode == 0, result.stderr
    assert {path.stem for path in (trained[0] / "curves").iterdir()} == set(FIGURES)
    read = read_run(trained[0])
    assert read.scored_on == "validation" and list(read.scores) == ["val0"] and len(read.scores["val0"]) == 11
    assert np.mean(read.scores["val0"]) == pytest.approx(read.history[-1]["val_psnr"], abs=1e-6)
    assert read.settings["train_vi_len"] == 4
    write_json(tmp_path / "metrics.json", {"sequences": [{"name": "0", "psnr_per_frame": [20.0, math.nan, 21.0]}]})
    assert json.loads((tmp_path / "metrics.json").read_text())["sequences"][0]["psnr_per_frame"] == [20.0, None, 21.0]
    assert run_inside("plot.py", tmp_path, "--format", "pdf").returncode == 0
    assert [path.name for path in (tmp_path / "curves").iterdir()] == ["psnr_per_frame.pdf"]
    assert (tmp_path / "curves/psnr_per_frame.pdf").read_bytes().startswith(b"%PDF")


def test_lines_are_the_numbers_of_the_files(tmp_path):
    scores = {"0": [30.0, 20.0, 10.0], "1": [20.0, 22.0], "2": [25.0, 90.0, 14.0]}
    run = read_run(write_run(tmp_path / "a", scores=scores))
    loss, log = (FIGURES[name]([run]).axes for name in ("loss_linear", "loss_log"))
    (ratio, tfr_loss), (validation,), (frames,) = (FIGURES[name]([run]).axes for name in
                                                   ("tfr", "val_psnr", "psnr_per_frame"))
    losses, epochs = np.array([2.0, 1.0, 0.5]), [0, 1, 2]
    for axis, x, y in [
        (loss[0], epochs, losses), (loss[1], epochs, losses / 10), (loss[2], epochs, losses * 7),
        (ratio, epochs, [1.0, 0.75, 0.5]), (tfr_loss, epochs, losses),
        (validation, [1, 2], [20.5, 19.0]),  # epoch 0 was not validated
        (frames, [2, 3, 4], [25.0, 22.0, 12.0]),  # the given frame has no score; the median over the sequences
    ]:
        assert axis.lines[0].get_xdata().tolist() == x and axis.lines[0].get_ydata().tolist() == pytest.approx(list(y))
    band = frames.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.max(), band.min()) == (90.0, 10.0), "the range over the sequences"
    assert log[0].get_yscale() == "log" and best_validation(run.history) == (1, 20.5)


def test_figures_of_a_training_run_are_those_of_plot(tmp_path):
    run = read_run(write_run(tmp_path / "a", scores={"val0": [30.0, 20.0]}))
    draw_training(run.history, tmp_path / "figures")
    draw_scores(run.scores, tmp_path / "figures/psnr_per_frame.png", "validation")
    draw_curves([run], tmp_path / "curves")
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert names == {*OF_A_RUN, "psnr_per_frame"} - {"posterior_share"}
    for name in ("val_psnr", "psnr_per_frame"):
        assert (tmp_path / f"figures/{name}.png").read_bytes() == (tmp_path / f"curves/{name}.png").read_bytes(), name
    assert 450 < Image.open(tmp_path / "curves/val_psnr.png").width < 560, "one column, 3.4 inches at 150 dots"


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
