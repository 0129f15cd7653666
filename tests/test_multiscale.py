"""The multi-scale architecture: its size and cost, the frame sizes it takes, and that rollouts stay sane."""

import pytest
import torch
from conftest import run_inside
from torch.utils.flop_counter import FlopCounterMode

from modules.model.vae import VAE_Model
from modules.options import PRESETS

SIZES = {key: PRESETS["best"][key] for key in ("arch", "F_dim", "L_dim", "N_dim", "D_out_dim")}


def shaken(**sizes):
    """A model whose weights are large and random, those that start at zero too."""
    torch.manual_seed(0)
    model = VAE_Model(**sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_default_is_small_and_cheap():
    model = VAE_Model(**SIZES)
    assert sum(p.numel() for p in model.parameters()) <= 3_000_000
    counts = []
    for T in (2, 4):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.rollout(torch.rand(1, 3, 32, 64), torch.rand(1, T, 3, 32, 64))
        counts.append(counter.get_total_flops())
    assert (counts[1] - counts[0]) / 2 <= 1e9, "operations a frame"


@torch.no_grad()
@pytest.mark.parametrize("height, width", [(8, 8), (40, 72), (64, 32)])
def test_any_multiple_of_eight(height, width):
    model = shaken(arch="multiscale", F_dim=16, L_dim=16, N_dim=4, D_out_dim=16)
    frames = model.rollout(torch.rand(2, 3, height, width), torch.rand(2, 3, 3, height, width)).frames
    assert frames.shape == (2, 2, 3, height, width)
    assert model.latent_shape(height, width) == (4, height // 8, width // 8)


def test_other_sizes_are_one_clear_line(tmp_path, dance):
    with pytest.raises(ValueError, match="30x64.*multiples of 8"):
        VAE_Model(**SIZES).latent_shape(30, 64)
    result = run_inside("Trainer.py", "--DR", dance, "--save_root", tmp_path, "--frame_H", 20, "--frame_W", 32)
    assert result.returncode == 2
    assert "20x32" in result.stderr.splitlines()[-1] and "Traceback" not in result.stderr


@torch.no_grad()
def test_a_rollout_of_5000_frames_stays_within_the_range():
    model = shaken(arch="multiscale", F_dim=8, L_dim=8, N_dim=2, D_out_dim=8)
    poses = torch.randint(0, 256, (1, 40, 3, 8, 16), dtype=torch.uint8).repeat(1, 125, 1, 1, 1)
    frames = model.rollout(torch.rand(1, 3, 8, 16), poses, noise=3 * torch.randn(1, 4999, 2, 1, 2)).frames
    assert torch.isfinite(frames).all() and frames.min() >= 0 and frames.max() <= 1


@torch.no_grad()
def test_x1_is_used_besides_the_last_frame():
    model = shaken(arch="multiscale", F_dim=16, L_dim=16, N_dim=4, D_out_dim=16)
    first, poses, last = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 3, 16, 16), torch.rand(1, 3, 16, 16)
    frames = model.rollout(first, poses, start=last).frames
    assert not torch.equal(frames, model.rollout(1 - first, poses, start=last).frames)
    assert not torch.equal(frames, model.rollout(first, poses, start=1 - last).frames)


@torch.no_grad()
def test_a_new_model_keeps_x1_where_it_changes_nothing():
    model = VAE_Model(**SIZES)
    torch.nn.init.zeros_(model.Generator.out.weight)
    torch.nn.init.zeros_(model.Generator.out.bias)
    first = torch.rand(1, 3, 16, 16) * 0.9 + 0.05
    torch.testing.assert_close(model.rollout(first, torch.rand(1, 2, 3, 16, 16)).frames[:, 0], first)


@torch.no_grad()
def test_the_posterior_starts_informed_and_the_prior_as_standard_normal():
    torch.manual_seed(0)
    model = VAE_Model(**SIZES, prior="learned")
    pose = model.label_transformation(torch.rand(2, 3, 16, 16))
    frames = [model.frame_transformation(torch.rand(2, 3, 16, 16)) for _ in range(2)]
    (one, logvar), (other, _) = (model.Gaussian_Predictor(frame, pose)[1:] for frame in frames)
    assert (one - other).abs().mean() > logvar.mul(0.5).exp().max(), "its mean follows the frame"
    assert (0.5 * logvar).exp().max() < 0.2, "it is narrow"
    mu, logvar = model.prior(frames[0], pose)[1:]
    assert not mu.any() and not logvar.any()
