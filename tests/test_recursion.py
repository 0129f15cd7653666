"""What the scripts say of the recursion and of the latent, on models where the answer is known."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import noise_frames

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import latent
import recursion

from modules.data.sequence import Sequence
from modules.model.vae import VAE_Model
from modules.runtime import InputError

LENGTH = 130
SEQUENCE = Sequence("val0", noise_frames(LENGTH, 3, 16, 32), noise_frames(LENGTH, 3, 16, 32, seed=1))


def tiny():
    torch.manual_seed(0)
    return VAE_Model("multiscale", F_dim=16, L_dim=16, N_dim=4, D_out_dim=16, prior="learned").eval()


def test_poses_are_hidden_or_shown_again():
    poses = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1).expand(10, 3, 2, 2)
    white, held = recursion.hide(poses, range(2, 9, 5), 2)
    assert white[:, 0, 0, 0].tolist() == [0, 1, 255, 255, 4, 5, 6, 255, 255, 9]
    assert held[:, 0, 0, 0].tolist() == [0, 1, 1, 1, 4, 5, 6, 6, 6, 9]
    values = torch.arange(2, 11)  # of frames 2 … 10, which are 1 … 9 counted from 0
    assert recursion.runs_of(values, range(2, 9, 5), 2).tolist() == [[3, 4], [8, 9]]


def test_the_last_frame_is_worth_what_the_model_makes_of_it():
    model = tiny()  # its prior starts as N(0, I)
    scores, films = recursion.measure(model, SEQUENCE, torch.float32)
    assert scores["psnr"] == pytest.approx(scores["psnr_map"], abs=1e-4)
    assert scores["missing"]["recursion"] == pytest.approx(scores["missing"]["map"], abs=1e-4)
    assert torch.equal(films["recursion"], films["map"])
    torch.nn.init.normal_(model.prior.out.weight)
    changed, films = recursion.measure(model, SEQUENCE, torch.float32)
    assert changed["psnr"] != changed["psnr_map"] and (films["recursion"] - films["map"]).abs().max() > 0.01
    for t in (5, recursion.EVERY // 2):  # a map: a frame is what x_1 and its pose make, wherever it stands
        pose = SEQUENCE.poses[t] if t == 5 else torch.full_like(SEQUENCE.poses[0], recursion.NO_POSE)
        with torch.no_grad():
            frame = model.rollout(SEQUENCE.frames[:1], torch.stack([pose, pose])[None]).frames[0, 0]
        torch.testing.assert_close(films["map"][t], frame)
    assert not torch.allclose(films["map"][recursion.EVERY // 2], films["held"][recursion.EVERY // 2])
    with pytest.raises(InputError, match="more than 90"):
        recursion.measure(model, SEQUENCE._replace(poses=SEQUENCE.poses[:90]), torch.float32)

    table = recursion.make_table({"a": scores})
    assert [row[3] for row in table[1:]] == list(recursion.WAYS.values())
    assert table[1][4] == f"{np.mean(scores['missing']['recursion']):.2f}"


def test_latent_table_has_a_row_for_every_run(dance, trained, tmp_path, monkeypatch):
    best = str(trained[0] / "best.ckpt")
    flags = ["--DR", dance, "--out", tmp_path / "use", "--num_samples", 2]
    monkeypatch.setattr(sys, "argv", ["latent.py", best, best, *map(str, flags)])
    latent.main()
    rows = (tmp_path / "use.csv").read_text().splitlines()
    assert rows[0].startswith("run,kl,active,units,psnr_prior") and rows[0].endswith("rho,rho_means")
    assert rows[1] == rows[2] and rows[1].startswith("trained,") and (tmp_path / "use.png").stat().st_size > 5000
