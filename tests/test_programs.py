"""Trainer.py and Tester.py, run as a user runs them."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import SMALL, check_error, run_inside
from PIL import Image

import Trainer as trainer_module
from modules.model.checkpoint import load_checkpoint
from modules.model.vae import Rollout, VAE_Model
from modules.options import parse_trainer
from modules.train.optimizers import build_optimizers
from Trainer import Trainer

FIGURES = {"loss_curve.png", "val_psnr.png", "teacher_forcing_ratio.png", "kl_beta.png", "posterior_share.png",
           "psnr_per_frame.png", "validation.gif", "val0.png", "val0.mp4"}


def rows(folder):
    with open(folder / "metrics.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def tested(dance, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tested"
    flags = ["--submission", "--make_gif", "--device", "cpu", "--precision", "fp32", "--lr", "0.1"]
    result = run_inside("Tester.py", "--DR", dance, "--save_root", folder, "--ckpt", trained[0] / "best.ckpt", *flags)
    assert result.returncode == 0, result.stderr
    assert "--lr" in result.stdout + result.stderr, "a flag of the template that does nothing is named"
    return folder, result


def test_trainer_writes_every_file(trained):
    folder, result = trained
    assert {path.name for path in (folder / "figures").iterdir()} == FIGURES
    names = {path.name for path in folder.iterdir()}
    assert {"epoch=0.ckpt", "epoch=1.ckpt", "last.ckpt", "best.ckpt", "metrics.csv"} <= names
    header = "epoch,loss,mse,kl,beta,tfr,posterior_share,lr,val_psnr,val_bound,seconds,frames_per_second"
    assert (folder / "metrics.csv").read_text().splitlines()[0] == header
    assert [row["epoch"] for row in rows(folder)] == ["0", "1"]
    assert all(np.isfinite([float(row[name]) for name in row if name != "val_bound"]).all() for row in rows(folder))
    for word in ("mse", "kl", "beta", "tfr", "lr", "frames/s"):
        assert word in result.stderr, "the progress bar shows it"
    best, last = (load_checkpoint(folder / name) for name in ("best.ckpt", "last.ckpt"))
    assert "optimizer" not in best and "training" not in best, "weights and configuration only"
    assert best["config"]["bounded"] is best["settings"]["bounded"]
    assert best["val_psnr"] == max(float(row["val_psnr"]) for row in rows(folder))
    assert "exp_avg" in last["optimizer"]["Adam"]["state"][0], "the optimizer's state, not the weights again"


@pytest.mark.parametrize("best_by, lost", [("psnr", False), ("bound", False), ("bound", True)])
def test_best_by(dance, tmp_path, monkeypatch, best_by, lost):
    """The bound falls, the PSNR rises: of three epochs the first is the best, or the last; also of a resumed run. A
    run whose best.ckpt is lost writes the best of what follows."""
    flags = ["--DR", dance, "--save_root", tmp_path, *SMALL, "--arch", "template", "--device", "cpu",
             "--epoch_steps", 1, "--pictures", "none", "--best_by", best_by]
    bounds, psnrs = iter([3.0, 2.0, 1.0]), iter([10.0, 11.0, 12.0])
    monkeypatch.setattr(trainer_module, "bound", lambda *_: next(bounds))
    monkeypatch.setattr(trainer_module, "score_validation", lambda *_: (next(psnrs), {"val0": [10.0]}))
    monkeypatch.setattr(trainer_module, "draw_validation", lambda *_, **__: None)
    for epochs in (2, 3):
        if lost and epochs == 3:
            (tmp_path / "best.ckpt").unlink()
        result = run_inside("Trainer.py", *flags, "--num_epoch", epochs)
        assert result.returncode == 0, result.stderr
    best = load_checkpoint(tmp_path / "best.ckpt")
    assert best["last_epoch"] == (2 if best_by == "psnr" or lost else 0)
    assert f"Best val_{best_by} {12 if best_by == 'psnr' else 1 if lost else 3}.000" in result.stdout
    assert [row["val_bound"] for row in rows(tmp_path)] == ([""] * 3 if best_by == "psnr" else ["3.0", "2.0", "1.0"])


def test_same_seed_same_numbers_other_seed_others(dance, trained, tmp_path):
    flags = ["--DR", dance, *SMALL, "--preset", "template", "--num_epoch", 2, "--device", "cpu", "--pictures", "none"]
    for seed in "01":
        assert run_inside("Trainer.py", "--save_root", tmp_path / seed, *flags, "--seed", seed).returncode == 0
    exact = ("epoch", "loss", "mse", "kl", "beta", "tfr", "lr", "val_psnr")
    first, same, other = ([[row[name] for name in exact] for row in rows(folder)]
                          for folder in (trained[0], tmp_path / "0", tmp_path / "1"))
    assert first == same != other


def test_tester_writes_every_file(tested, dance):
    folder, result = tested
    for i in range(2):
        names = {"pred_seq.gif", "pose.gif", "ground_truth.gif", "psnr_per_frame.png"}
        assert names <= {path.name for path in (folder / f"seq{i}").iterdir()}
        for name in ("pred_seq", "pose", "ground_truth"):
            with Image.open(folder / f"seq{i}/{name}.gif") as gif:
                assert (gif.n_frames, *gif.size) == (10, 32, 16), "the given frame once, then nine"
        assert (folder / f"pred_seq{i}.gif").is_file()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert [len(s["psnr_per_frame"]) for s in metrics["sequences"]] == [9, 9]
    assert metrics["avg_psnr"] == pytest.approx(np.mean([s["psnr"] for s in metrics["sequences"]]))
    lines = result.stdout.splitlines()
    at = lines.index("============== Your Result ==============")
    scores = [s["psnr"] for s in metrics["sequences"]]
    assert lines[at + 1 : at + 5] == [
        f"PSNR for testing sequence0: {scores[0]:.3f}",
        f"PSNR for testing sequence1: {scores[1]:.3f}",
        "-----------------------------------------",
        f"                       AVG: {metrics['avg_psnr']:.3f}",
    ]
    assert "z: prior mean" in result.stdout


def test_scores_are_those_of_the_files(tested, dance):
    """metrics.json against the PSNR of what submission.csv holds: 8-bit rounding is all that may differ."""
    folder, _ = tested
    text = (folder / "submission.csv").read_text().splitlines()
    values = 3 * 16 * 32
    assert text[0] == "id," + ",".join(map(str, range(values)))
    table = np.array([[int(v) for v in line.split(",")] for line in text[1:]])
    assert table[:, 0].tolist() == list(range(20)), "sequence-major, frame 0 included"
    assert table[:, 1:].min() >= 0 and table[:, 1:].max() <= 255
    metrics = json.loads((folder / "metrics.json").read_text())
    for i in range(2):
        files = sorted((dance / f"test/test_gt/{i}").iterdir())
        truth = np.stack([np.asarray(Image.open(path)) for path in files]).transpose(0, 3, 1, 2)
        predicted = table[10 * i : 10 * i + 10, 1:].reshape(10, 3, 16, 32)
        assert np.array_equal(predicted[0], truth[0]), "row 0 is the given frame, pixels flattened as C, H, W"
        mse = ((predicted[1:] / 255 - truth[1:] / 255) ** 2).mean(axis=(1, 2, 3))
        assert metrics["sequences"][i]["psnr_per_frame"] == pytest.approx(-10 * np.log10(mse), abs=0.15)


def test_validation_equals_test_for_the_same_frames(dance, trained, tmp_path):
    """The validation set laid out as a test sequence scores what the Trainer wrote for it."""
    for kind, source in (("test_label", "val_label"), ("test_gt", "val_img")):
        shutil.copytree(dance / "val" / source, tmp_path / "test" / kind / "0")
    (tmp_path / "test/test_img/0").mkdir(parents=True)
    first = sorted((dance / "val/val_img").iterdir())[0]
    shutil.copy(first, tmp_path / "test/test_img/0")
    checkpoint = trained[0] / "best.ckpt"
    result = run_inside("Tester.py", "--DR", tmp_path, "--save_root", tmp_path / "out", "--ckpt_path", checkpoint)
    assert result.returncode == 0, result.stderr
    score = json.loads((tmp_path / "out/metrics.json").read_text())["avg_psnr"]
    assert score == pytest.approx(load_checkpoint(checkpoint)["val_psnr"], abs=1e-6)
    flags = ["--DR", dance, "--save_root", tmp_path / "only", "--ckpt_path", checkpoint]
    only = run_inside("Trainer.py", *flags, "--test")
    assert f"validation PSNR {score:.3f} dB" in only.stdout
    assert "Not of preset best, the checkpoint decides: --arch template --F_dim 16 " in only.stdout


def test_template_checkpoint_runs_in_both_programs(dance, tmp_path):
    """A file in the template's form, at the course's sizes and names; two samples; more validation sequences than
    are drawn."""
    torch.manual_seed(0)
    state, file = VAE_Model().state_dict(), tmp_path / "epoch=20.ckpt"
    torch.save({"state_dict": state, "optimizer": state, "lr": 0.001, "tfr": 0.4, "last_epoch": 0}, file)
    flags = ["--DR", dance, "--ckpt_path", file, "--frame_H", 16, "--frame_W", 32]
    tested = run_inside("Tester.py", *flags, "--save_root", tmp_path / "t", "--num_samples", 2, "--pictures", "none")
    assert tested.returncode == 0, tested.stderr
    sequence = json.loads((tmp_path / "t/metrics.json").read_text())["sequences"][0]
    assert sequence["psnr_best_sample"] >= sequence["psnr"]
    assert f"{sequence['psnr']:.3f} (mean of 2 samples; best {sequence['psnr_best_sample']:.3f})" in tested.stdout
    flags += ["--preset", "template", "--num_epoch", 1, "--train_vi_len", 3, "--partial", 0.2, "--val_vi_len", 2]
    trained = run_inside("Trainer.py", *flags, "--save_root", tmp_path / "r")
    assert trained.returncode == 0, trained.stderr
    assert "Starting a new run from the weights of" in trained.stdout and "epoch 0: validation PSNR" in trained.stdout
    assert [row["epoch"] for row in rows(tmp_path / "r")] == ["0"]
    assert {path.stem for path in (tmp_path / "r/figures").glob("val?.png")} == {"val0", "val1", "val2", "val3"}


def test_truth_is_read_in_every_form(dance, trained, tested, tmp_path):
    expected = json.loads((tested[0] / "metrics.json").read_text())["avg_psnr"]
    bare = tmp_path / "parent" / "bare"
    shutil.copytree(dance, bare)
    shutil.rmtree(bare / "test/test_gt")
    flags = ["--save_root", tmp_path / "out", "--ckpt_path", trained[0] / "best.ckpt", "--precision", "fp32"]
    result = run_inside("Tester.py", "--DR", bare, *flags)
    assert "No true frames for sequence 0, 1: predicted, not scored" in result.stdout
    assert "Your Result" not in result.stdout

    (tmp_path / "parent/Demo_Test").mkdir()
    for extra in (["--gt", dance / "test/test_gt"], []):
        for i in range(0 if extra else 2):  # the last form is found beside the data set
            truth = [np.asarray(Image.open(path)) for path in sorted((dance / f"test/test_gt/{i}").iterdir())]
            values = (np.stack(truth).transpose(0, 3, 1, 2) / 255).reshape(len(truth), -1)
            np.savetxt(tmp_path / f"parent/Demo_Test/GT{i}.csv", values, fmt="%.8f")
        assert run_inside("Tester.py", "--DR", bare, *flags, *extra).returncode == 0
        score = json.loads((tmp_path / "out/metrics.json").read_text())["avg_psnr"]
        assert score == pytest.approx(expected, abs=1e-4), extra

    (tmp_path / "parent/Demo_Test/GT1.csv").write_text("0.5 0.5")
    check_error(run_inside("Tester.py", "--DR", bare, *flags), "GT1.csv", "10 x 3 x 16 x 32")


def test_report_rule_changes_target_with_the_coin(dance):
    """With teacher forcing off, the report's target is the previously generated frame, x_1 for the first."""
    flags = ["--DR", dance, "--save_root", "x", "--preset", "report", *SMALL, "--device", "cpu", "--precision", "fp32"]
    trainer = Trainer(parse_trainer([*map(str, flags), "--kl_anneal_type", "None"]))

    class Constant(torch.nn.Module):
        """Predicts frames of the constant levels 0.1, 0.2, …"""

        def __init__(self):
            super().__init__()
            self.level = torch.nn.Parameter(torch.tensor(0.1))

        def rollout(self, x_1, poses, *, from_posterior, teacher_forcing, **_):
            assert not from_posterior.any() and not teacher_forcing, "z from the prior, always its own last frame"
            levels = self.level * torch.arange(1, poses.shape[1]).reshape(1, -1, 1, 1, 1)
            return Rollout(levels.expand(len(x_1), -1, 3, 16, 32), torch.ones(len(x_1), poses.shape[1] - 1, 1))

    trainer.model = Constant()
    trainer.optimizers = build_optimizers("Adam", trainer.model, 0.0, 0.0)
    batch = next(trainer.feed.batches(0))._replace(lr=torch.tensor(0.0))
    assert batch.target_is_truth and batch.noise[0].std() > 0.5, "tfr 1: the coin says the truth; every z is a sample"
    frames = batch.frames / 255
    truth = np.mean([((frames[:, t] - 0.1 * t) ** 2).mean().item() for t in (1, 2, 3)])
    (_, mse, _), _ = trainer.step(batch)
    assert mse.item() == pytest.approx(truth, rel=1e-5)
    (_, mse, _), _ = trainer.step(batch._replace(target_is_truth=False))
    assert mse.item() == pytest.approx(np.mean([((frames[:, 0] - 0.1) ** 2).mean().item(), 0.01, 0.01]), rel=1e-5)
