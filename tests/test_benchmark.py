"""The benchmark: the plain loop computes what the rollout computes, and the table says what was measured."""

import json
import sys

import pytest
import torch
from conftest import ROOT, noise_frames
from PIL import Image

sys.path.insert(0, str(ROOT / "scripts"))
import benchmark

from modules.data.sequence import Sequence
from modules.model.vae import VAE_Model
from modules.options import parse_tester, parse_trainer
from modules.runtime import InputError
from modules.score.predict import predict

SIZE = benchmark.Size(rounds=1, batch=2, seconds=0.01, part=4, frames=5, steps=3)


@pytest.fixture()
def loop(dance, tmp_path, monkeypatch):
    """The plain loop with a small network, on the CPU."""
    monkeypatch.setattr(benchmark, "CLIP", 3)
    monkeypatch.setattr(benchmark, "pick_device", lambda name: torch.device("cpu"))
    torch.manual_seed(0)
    return benchmark.PlainLoop(dance, dance, tmp_path, VAE_Model("template", 16, 8, 4, 16), SIZE)


def test_the_plain_loop_predicts_what_the_rollout_predicts(loop, monkeypatch):
    monkeypatch.setattr(loop, "noise", lambda batch: torch.zeros(batch, 4, 32, 64))
    images = noise_frames(4, 3, 32, 64)
    plain = loop.predict(images[0] / 255, images / 255)
    (fast,) = predict(loop.model, [Sequence("0", images[:1], images)], torch.float32)
    torch.testing.assert_close(plain.clamp(0, 1), fast[0, 1:], rtol=1e-4, atol=1e-4)


def test_the_plain_loop_trains_and_writes(loop, tmp_path):
    before = loop.model.Generator[7].weight.detach().clone()
    assert loop.train() == 2 * 2 and not torch.equal(loop.model.Generator[7].weight, before)
    assert loop.test() == loop.rollout() == 4
    assert [Image.open(tmp_path / f"{i}.gif").n_frames for i in range(3)] == [4, 5, 5]


def test_the_table(loop, dance, tmp_path, monkeypatch, capsys):
    """Every kind of case once, on tiny data; the plain loop's seconds are those of its units times the work."""
    calls = []
    monkeypatch.setattr(benchmark, "launch", lambda *command: calls.append(list(map(str, command))) or 2.0)
    monkeypatch.setitem(benchmark.PRESETS, "multiscale", "--preset best --F_dim 16 --L_dim 8 --N_dim 4 --D_out_dim 16")
    cases = [*benchmark.model_cases(dance, "multiscale", "fp32", SIZE), *benchmark.program_cases(dance, SIZE)]
    monkeypatch.setattr(benchmark, "per_frame", lambda work, seconds: work() / 1000)
    rows = benchmark.measure(loop, cases, SIZE)
    benchmark.write(tmp_path / "b", rows, {"environment": {}})
    assert "|  | seconds | plain loop" in capsys.readouterr().out and Image.open(tmp_path / "b.png").width > 400
    assert json.loads((tmp_path / "b.json").read_text())["rows"] == rows
    by_name = {row["name"]: row for row in rows}
    train, rollout = by_name["training, 1,000 frames: multiscale, fp32"], by_name["6 x 629 frames: multiscale, fp32"]
    assert train["seconds"] == pytest.approx(16) and train["plain"] == pytest.approx(1000 * 0.004)
    assert rollout["seconds"] == pytest.approx(6 * 629 * 0.024) and rollout["plain"] == pytest.approx(6 * 629 * 0.004)
    assert by_name["Tester.py, six sequences"]["times"] == pytest.approx(6 * 5 * 0.004 / 2), "sequences of 5 frames"
    train = by_name["Trainer.py, 3 steps, a validation"]
    assert train["plain"] == pytest.approx(3 * 16 * 0.004 + 5 * 0.004)
    assert by_name["Tester.py, six sequences, no images"]["times"] is None
    for program, *words in calls:  # the programs take these flags
        {"Trainer.py": parse_trainer, "Tester.py": parse_tester}[program](words)


def test_a_program_that_fails_is_one_line():
    assert benchmark.launch("-c", "print(1)") > 0
    with pytest.raises(InputError, match="-c ended with code 2: sorry"):
        benchmark.launch("-c", "import sys; print('sorry', file=sys.stderr); sys.exit(2)")
