"""The benchmark: both of its sides compute the same, and its table says what was measured."""

import json
import sys

import torch
from conftest import ROOT
from PIL import Image

sys.path.insert(0, str(ROOT / "scripts"))
import benchmark


def test_the_plain_reference_computes_what_the_rollout_computes(dance, monkeypatch):
    reference, case = benchmark.Reference(dance, batch=1), benchmark.Case(dance, "template", "fp32", batch=1)
    monkeypatch.setattr(reference, "noise", lambda batch: torch.zeros(batch, 12, benchmark.HEIGHT, benchmark.WIDTH))
    case.model.load_state_dict(reference.model.state_dict())
    sequences = [s._replace(frames=s.frames[:1], poses=s.poses[:3]) for s in case.trainer.validation[:1]] * 3
    for plain, fast in zip(reference.rollouts(sequences), case.rollouts(sequences), strict=True):
        torch.testing.assert_close(plain.clamp(0, 1), fast, rtol=1e-4, atol=1e-4)
    for one in (reference, case):
        before = one.model.Generator[7].weight.detach().clone()
        assert one.step() == 15 and one.at == 1
        assert not torch.equal(one.model.Generator[7].weight, before), "a step trains"
        one.predict(sequences)
        assert len(one.one) == len(one.six) == 1 and one.one[0] > 0 and one.six[0] > 0


def test_gflop_are_those_of_a_hand_count():
    """One 1x1 convolution from 12 to 2 x 12 channels is 2 * 12 * 24 operations a pixel."""
    with benchmark.FlopCounterMode(display=False) as counter:
        torch.nn.Conv2d(12, 24, 1)(torch.zeros(1, 12, 32, 64))
    assert counter.get_total_flops() == 2 * 12 * 24 * 32 * 64
    small = benchmark.VAE_Model("multiscale", 16, 8, 4, 16)
    large = benchmark.VAE_Model("multiscale", 96, 160, 12, 160)
    assert benchmark.gflop_per_frame(small) < 0.1 * benchmark.gflop_per_frame(large) < 0.1


def test_the_table_is_read_back(tmp_path, capsys):
    keys = ("train_frames_per_second", "predict_1_seconds", "predict_6_seconds", "train_ratio", "predict_1_ratio",
            "predict_6_ratio", "gflop_per_frame", "train_share_of_peak", "predict_6_share_of_peak")
    slow = dict.fromkeys(keys, 1.0) | {"name": "reference", "start_up_seconds": None, "peak_memory_gb": None}
    fast = dict.fromkeys(keys, 20.0) | {"name": "fast", "start_up_seconds": 3.0, "peak_memory_gb": 0.5}
    benchmark.write(tmp_path / "b", {"environment": {}, "rows": [slow, fast]})
    assert json.loads((tmp_path / "b.json").read_text())["rows"] == [slow, fast]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (tmp_path / "b.md").read_text().splitlines()]
    assert dict(zip(cells[0], cells[3], strict=True))["start s"] == "3"
    assert dict(zip(cells[0], cells[2], strict=True))["start s"] == ""
    assert cells[3][2] == "20" and capsys.readouterr().out.startswith("|  | train frames/s")
    assert Image.open(tmp_path / "b.png").width > 400
