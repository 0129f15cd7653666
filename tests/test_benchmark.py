"""The benchmark: the plain loop computes what the rollout computes, and the table says what was measured."""

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

SIZES = {"BATCH": 2, "CLIP": 3, "SECONDS": 0.01, "PART": 4, "STEPS": 3}


@pytest.fixture()
def loop(dance, tmp_path, monkeypatch):
    """The plain loop with a small network, on the CPU."""
    for name, value in SIZES.items():
        monkeypatch.setattr(benchmark, name, value)
    monkeypatch.setattr(benchmark, "pick_device", lambda name: torch.device("cpu"))
    torch.manual_seed(0)
    return benchmark.PlainLoop(dance, dance, tmp_path, VAE_Model("template", 16, 8, 4, 16))


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


def test_the_table(loop, dance, monkeypatch):
    """Every kind of case once, on tiny data; the plain loop's seconds are those of a frame times the frames."""
    calls = []
    monkeypatch.setattr(benchmark, "launch", lambda *command: calls.append(list(map(str, command))) or 2.0)
    monkeypatch.setitem(benchmark.PRESETS, "multiscale", "--preset best --F_dim 16 --L_dim 8 --N_dim 4 --D_out_dim 16")
    cases = [*benchmark.model_cases(dance, "multiscale", "fp32"), *benchmark.program_cases(dance)]
    monkeypatch.setattr(benchmark, "per_frame", lambda work: work() / 1000)
    head, *rows = benchmark.measure(loop, cases, rounds=1)
    assert head == ["", "seconds", "plain loop, seconds", "times"]
    assert rows == [["plain loop, train", "", "0.004", ""], ["plain loop, rollout", "", "0.004", ""],
                    ["plain loop, test", "", "0.004", ""],
                    ["training, 1,000 frames: multiscale, fp32", "16", "4", "0.25"],
                    ["1 x 629 frames: multiscale, fp32", "2.516", "2.516", "1"],
                    ["6 x 629 frames: multiscale, fp32", "90.58", "15.1", "0.1667"],
                    ["Tester.py, six sequences", "2", "15.1", "7.548"],
                    ["Trainer.py, 3 steps, a validation", "2", "2.708", "1.354"]]
    for (program, *words), parse in zip(calls, (parse_tester, parse_trainer), strict=True):
        assert program in ("Tester.py", "Trainer.py") and parse(words), "the programs take these flags"


def test_a_program_that_fails_is_one_line():
    assert benchmark.launch("-c", "print(1)") > 0
    with pytest.raises(InputError, match="-c ended with code 2: sorry"):
        benchmark.launch("-c", "import sys; print('sorry', file=sys.stderr); sys.exit(2)")
