"""The multi-scale architecture: its size and cost, levels and frame sizes, and that rollouts stay sane."""

import pytest
import torch
from conftest import ROOT, SMALL, check_error, run_inside
from torch.utils.flop_counter import FlopCounterMode

from modules.model import template
from modules.model.checkpoint import load_checkpoint, model_from_checkpoint
from modules.model.multiscale import levels_for
from modules.model.vae import VAE_Model
from modules.options import PRESETS

TINY = {"arch": "multiscale", "F_dim": 16, "L_dim": 16, "N_dim": 4, "D_out_dim": 16}
SIZES = {key: PRESETS["best"][key] for key in ("arch", "F_dim", "L_dim", "N_dim", "D_out_dim")}
DEFAULT = SIZES | {"prior": PRESETS["best"]["prior"]}


def shaken(**sizes):
    """A model whose weights are large and random, those that start at zero too."""
    torch.manual_seed(0)
    model = VAE_Model(**sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def operations(model, height, width):
    """Floating point operations of one predicted frame, its pose included."""
    counts = []
    for T in (2, 3):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.rollout(torch.rand(1, 3, height, width), torch.rand(1, T, 3, height, width))
        counts.append(counter.get_total_flops())
    return counts[1] - counts[0]


def test_default_is_small_and_cheap():
    model = VAE_Model(**DEFAULT)
    assert sum(p.numel() for p in model.parameters()) <= 3_000_000
    at_32x64 = operations(model, 32, 64)
    assert at_32x64 <= 1e9
    for height, width, times in ((64, 64, 2.25), (64, 128, 4.5)):
        larger = VAE_Model(**DEFAULT, levels=levels_for(height, width))
        assert times / 1.15 < operations(larger, height, width) / at_32x64 <= times


@pytest.mark.parametrize("height, width, levels", [
    (32, 64, 4), (64, 64, 5), (64, 128, 5), (128, 256, 6), (96, 96, 5), (8, 8, 4), (24, 40, 4), (72, 136, 4),
    (256, 264, 4), (30, 64, 4),
])
def test_levels_grow_with_the_frame(height, width, levels):
    assert levels_for(height, width) == levels
    assert template.levels_for(height, width) == 1
    with pytest.raises(ValueError, match=f"{levels + 10} levels: expected 4 … 13"):
        VAE_Model(**TINY, levels=levels + 10)


@pytest.mark.parametrize("height, width, latent", [(64, 64, (4, 4)), (64, 128, (4, 8)), (128, 256, (4, 8))])
def test_every_weight_of_a_larger_model_learns(height, width, latent):
    levels = levels_for(height, width)
    model = shaken(**TINY, prior="learned", levels=levels).train()
    assert model.latent_shape(height, width) == (4, *latent)
    frames, poses = torch.rand(1, 2, 3, height, width), torch.rand(1, 2, 3, height, width)
    out = model.rollout(frames[:, 0], poses, truth=frames, noise=torch.randn(1, 1, 4, *latent),
                        from_posterior=torch.ones(1, 1, 1, 1, dtype=torch.bool))
    (out.frames.mean() + out.kl.mean()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    with torch.no_grad():
        frames = model.rollout(frames[:, 0], torch.rand(1, 4, 3, height, width)).frames
    assert frames.shape == (1, 3, 3, height, width) and torch.isfinite(frames).all()


@torch.no_grad()
def test_the_pretrained_model_predicts_the_very_same():
    """Numbers of the code that wrote docs/pretrained/dancer.ckpt."""
    path = ROOT / "docs/pretrained/dancer.ckpt"
    model, size = model_from_checkpoint(load_checkpoint(path), path)
    assert size == (32, 64) and model.config == DEFAULT | {"levels": 4}
    y, x = torch.meshgrid(torch.arange(32), torch.arange(64), indexing="ij")
    image = torch.stack([(3 * y + 2 * x) % 64, (5 * y + x) % 128, (y * x) % 256]) / 255
    frames = model.rollout(image[None], torch.stack([image.roll(t, -1) for t in range(4)])[None]).frames
    expected = [0.32731155, 0.32941684, 0.32998154]
    torch.testing.assert_close(frames.mean(dim=(0, 2, 3, 4)), torch.tensor(expected), rtol=0, atol=1e-5)
    expected = [0.03256076, 0.37699580, 0.76359099]
    torch.testing.assert_close(frames[0, -1, :, 10, 20], torch.tensor(expected), rtol=0, atol=1e-4)
    other = model.rollout(torch.rand(1, 3, 64, 128), torch.rand(1, 2, 3, 64, 128)).frames
    assert other.shape == (1, 1, 3, 64, 128), "its four levels at another size"


def test_a_larger_run_is_tested_and_resumed(dance, tmp_path):
    small = [*SMALL, "--frame_H", 64, "--frame_W", 128, "--train_vi_len", 2, "--batch_size", 2, "--pictures", "none"]
    train = ["Trainer.py", "--DR", dance, *small, "--epoch_steps", 1, "--save_root", tmp_path / "a"]
    first = run_inside(*train, "--num_epoch", 1)
    assert first.returncode == 0, first.stderr
    assert "64x128 frames, z at 4x8" in first.stdout and "up to 4 pixels up or down and 24 to a side" in first.stdout
    again = run_inside(*train, "--num_epoch", 2)
    assert again.returncode == 0 and "at epoch 1." in again.stdout, again.stderr
    best = tmp_path / "a/best.ckpt"
    assert model_from_checkpoint(load_checkpoint(best), best)[0].config["levels"] == 5
    test = ["Tester.py", "--DR", dance, "--no_baselines", "--pictures", "none", "--ckpt_path", best, "--save_root"]
    assert run_inside(*test, tmp_path / "t").returncode == 0
    result = run_inside(*test, tmp_path / "u", "--frame_H", 40, "--frame_W", 72)
    check_error(result, "40x72", "multiples of 16, such as 32x64")


def test_other_sizes_are_one_clear_line(tmp_path, dance):
    with pytest.raises(ValueError, match="30x64.*multiples of 8"):
        VAE_Model(**SIZES).latent_shape(30, 64)
    with pytest.raises(ValueError, match="F_dim 20.*multiples of 8"):
        VAE_Model(**TINY | {"F_dim": 20})
    result = run_inside("Trainer.py", "--DR", dance, "--save_root", tmp_path, "--frame_H", 20, "--frame_W", 32)
    assert result.returncode == 2
    check_error(result, "20x32", "multiples of 8, such as 16x32")


@torch.no_grad()
def test_a_rollout_of_1600_frames_stays_within_the_range():
    model = shaken(arch="multiscale", F_dim=8, L_dim=8, N_dim=2, D_out_dim=8)
    poses = torch.randint(0, 256, (1, 40, 3, 8, 16), dtype=torch.uint8).repeat(1, 40, 1, 1, 1)
    frames = model.rollout(torch.rand(1, 3, 8, 16), poses, noise=3 * torch.randn(1, 1599, 2, 1, 2)).frames
    assert torch.isfinite(frames).all() and frames.min() >= 0 and frames.max() <= 1


@torch.no_grad()
def test_x1_is_used_and_the_last_frame_by_a_learned_prior_only():
    x_1, poses, last = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 3, 16, 16), torch.rand(1, 1, 3, 16, 16)
    for prior, used in (("learned", True), ("standard", False)):
        model = shaken(**TINY, prior=prior)
        frames = model.rollout(x_1, poses, last=last).frames
        assert not torch.equal(frames, model.rollout(1 - x_1, poses, last=last).frames)
        assert torch.equal(frames, model.rollout(x_1, poses, last=1 - last).frames) != used


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
