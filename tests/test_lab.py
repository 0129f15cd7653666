"""The lab's report, the analysis of the PSNR per frame, and the notebook."""

import json
import re
import shutil

import lab_report
import nbclient
import nbformat
import numpy as np
import study
import torch
from conftest import ROOT, SMALL, check_error, noise_frames, run_inside

import Tester
from modules.data.sequence import Sequence
from modules.files import read_json
from modules.model.vae import VAE_Model
from modules.runtime import InputError
from modules.score.analysis import absent_colors, describe, predict_again, worst_stretches
from modules.score.predict import predict


def test_the_lab_report_is_continued(dance, tmp_path, started, monkeypatch):
    """Stopped before the first test, then continued; a Chinese name and a $; all on one page."""
    monkeypatch.setattr(lab_report, "SETTINGS", ("Cyclical", "Constant"))
    root, call = tmp_path / "實驗 $x$", study.call
    flags = ["--DR", dance, "--save_root", root, "--preset", "template", "--num_epoch", 1, "--epoch_steps", 1,
             "--device", "cpu", "--pictures", "none", *SMALL]

    def stopped(program, *arguments):
        if program == "Tester.py":
            raise InputError("stopped")
        call(program, *arguments)

    with monkeypatch.context() as once:
        once.setattr(study, "call", stopped)
        check_error(run_inside("lab_report.py", *flags), "stopped")
    result = run_inside("lab_report.py", *flags)
    assert result.returncode == 0, result.stderr
    assert [program for program, _ in started] == ["Trainer.py", "Tester.py", "Trainer.py", "Tester.py"]
    page = (root / "report.html").read_text(encoding="utf-8")
    assert "{{" not in page and not re.search(r"""(?:src|href)=["'](?!data:|file:|latent.csv)""", page)
    scores = read_json(root / "Cyclical/seed0/test/metrics.json")
    assert f"PSNR for testing sequence1: {scores['sequences'][1]['psnr']:.3f}" in page
    assert page.count("Your Result") == 2 and "<td>Constant</td>" in page
    assert page.count('<div class="own"') == page.count('data-label="Your words"></div>') == 10, "they are empty"
    assert "Trainer.step</a>" in page and "z = &mu;" in page and "def reparameterise" in page
    assert all(f'alt="{name}"' in page for name in ("loss_log", "loss_linear", "tfr", "beta", "val0", "val0.worst1"))
    assert (root / "curves/loss_log.pdf").is_file() and (root / "curves/tfr.pdf").is_file()
    explained = list(root.glob("*/seed0/analysis/analysis.json"))
    (row,) = read_json(explained[0])
    assert len(explained) == 1 and (explained[0].parent / "val0.pdf").is_file()
    assert len(row["per_frame"]["restarted"]) == 11 and row["images"] == ["val0.worst1.png"]
    assert all(text.replace("&", "&amp;") in page for text in row["text"])


def test_analyse_alone(dance, trained, tmp_path):
    """The test sequences; without their true frames there is nothing to explain."""
    flags = ["--ckpt_path", trained[0] / "best.ckpt", "--mode", "test", "--save_root", tmp_path / "a",
             "--num_workers", 0, "--cache_dir", tmp_path / "cache", "--device", "cpu", "--DR"]
    result = run_inside("analyse.py", *flags, dance)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "a").glob("*.png")} == {"0.png", "0.worst1.png", "1.png", "1.worst1.png"}
    assert result.stdout.count("Frames 2 to 10: ") == 2 and "accumulated error (dB)" in result.stdout
    shutil.copytree(dance, tmp_path / "data")
    shutil.rmtree(tmp_path / "data/test/test_gt")
    check_error(run_inside("analyse.py", *flags, tmp_path / "data"), "no test sequence has true frames")


def test_rollouts_that_start_again():
    torch.manual_seed(0)
    model = VAE_Model("template", F_dim=8, L_dim=8, N_dim=4, D_out_dim=8).eval()
    sequence = Sequence("0", noise_frames(8, 3, 8, 8), noise_frames(8, 3, 8, 8, seed=1))
    whole = predict(model, [sequence], torch.float32)[0][0, 1:]
    torch.testing.assert_close(predict_again(model, sequence, torch.float32, 7), whole)
    with torch.no_grad():
        poses, truth = sequence.poses[None], sequence.frames[None]
        forced = model.rollout(truth[:, 0], poses, truth=truth, teacher_forcing=True).frames[0].clamp(0, 1)
        third = model.rollout(truth[:, 0], poses[:, 3:7], last=truth[:, 3:4]).frames[0].clamp(0, 1)
    torch.testing.assert_close(predict_again(model, sequence, torch.float32, 1), forced)
    again = predict_again(model, sequence, torch.float32, 3)
    torch.testing.assert_close(again[:3], whole[:3])
    torch.testing.assert_close(again[3:6], third)
    assert not torch.allclose(again[3:], whole[3:], rtol=1.3e-6, atol=1e-5)


def test_colours_stretches_and_sentences_by_hand():
    poses = torch.full((5, 3, 4, 4), 255, dtype=torch.uint8)
    for row, color in enumerate([(255, 0, 0), (0, 255, 0), (128, 128, 255)]):
        poses[:, :, row, 0] = torch.tensor(color, dtype=torch.uint8)
    poses[1, :, 0] = 255  # red is gone
    poses[2, :, :2] = 255  # red and green
    assert absent_colors(poses, poses).tolist() == [0, 1, 2, 0, 0]
    values = np.full(100, 30.0)
    values[50:70], values[72:80], values[10] = 20, 25, 5
    stretches = worst_stretches(values)
    assert stretches[0] == slice(50, 70) and stretches[1].start <= 10 < stretches[1].stop
    starts = sorted(stretch.start for stretch in stretches)
    assert min(np.diff(starts)) >= 40, "a stretch's length apart"
    columns = dict.fromkeys(("rollout", "restarted", "true_last"), values)
    columns |= {"accumulated": 0 * values, "distance": -values, "absent": values, "change": np.arange(100.0)}
    means, correlations, worst, *_ = describe(columns, stretches)
    assert means.startswith(f"Mean PSNR: rollout {values.mean():.2f} dB, true frame every 30 frames ")
    assert "(dB) nan, distance of the nearest training pose (levels) 1.00, limb colours" in correlations
    assert worst.startswith(f"Frames 52 to 71: 20.00 dB, {values.mean() - 20:.2f} dB below the mean; ")
    assert worst.endswith("change of the true frame (levels) 59.50 (mean 49.50; 60% of frames have less).")


def test_the_courses_test_set_has_a_submission(dance, trained, tmp_path, monkeypatch):
    """Without being asked for."""
    flags = ["--DR", dance, "--ckpt_path", trained[0] / "best.ckpt", "--device", "cpu", "--pictures", "none"]
    for count, length, written in ((2, 10, True), (5, 10, False), (2, 9, False)):
        monkeypatch.setattr(Tester, "COURSE_FORMS", [[(length, 3, 16, 32)] * count])
        root = tmp_path / f"{count}{length}"
        assert run_inside("Tester.py", *flags, "--no_baselines", "--save_root", root).returncode == 0
        assert (root / "submission.csv").is_file() == written


def test_the_notebook(dance, tmp_path, monkeypatch):
    notebook = nbformat.read(ROOT / "docs/lab.ipynb", as_version=4)
    assert len(notebook.cells) <= 12 and not any(cell.get("outputs") for cell in notebook.cells)
    for name, value in {"DR": dance, "RUN": tmp_path / "run", "FLAGS": " ".join(map(str, [
            "--preset", "template", "--num_epoch", 1, "--epoch_steps", 1, "--device", "cpu", *SMALL]))}.items():
        monkeypatch.setenv(name, str(value))
    nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(ROOT / "docs")}}).execute()
    shown = json.dumps(notebook.cells)
    assert shown.count('"image/png"') == 3 and shown.count("<video") == 2 and "20 rows" in shown, shown[-3000:]
