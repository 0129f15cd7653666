"""What the latent is said to do, on models where the answer is known."""

import pytest
import torch
from conftest import noise_frames

from dataloader import Dataset_Dance
from modules.data.sequence import Sequence
from modules.model.checkpoint import load_checkpoint, model_from_checkpoint
from modules.model.vae import Rollout, VAE_Model
from modules.score.latent import ACTIVE, latent_use, noise_correlation
from modules.score.metrics import psnr
from modules.score.predict import predict

SEQUENCE = Sequence("val0", noise_frames(6, 3, 16, 32), noise_frames(6, 3, 16, 32, seed=1))


def model():
    torch.manual_seed(0)
    return VAE_Model("multiscale", F_dim=16, L_dim=16, N_dim=4, D_out_dim=16).eval()


def test_a_latent_that_is_ignored_is_said_to_be():
    """The posterior is N(0, I) and with a zero map z does nothing."""
    net = model()
    torch.nn.init.zeros_(net.Gaussian_Predictor.out.weight)
    torch.nn.init.zeros_(net.Gaussian_Predictor.out.bias)
    torch.nn.init.zeros_(net.Decoder_Fusion.latent.weight)
    use = latent_use(net, SEQUENCE, torch.float32)
    assert use["kl"] == 0 and use["active"] == 0 and use["units"] == 4 * 2 * 4
    assert use["diversity"] == pytest.approx(0, abs=1e-4)
    assert use["psnr_prior"] == pytest.approx(use["psnr_posterior"]) == pytest.approx(use["psnr_sample"])


def test_a_latent_that_is_used_is_measured():
    net = model()
    with torch.no_grad():
        torch.nn.init.normal_(net.Gaussian_Predictor.out.weight)
        torch.nn.init.normal_(net.Decoder_Fusion.latent.weight)
    use = latent_use(net, SEQUENCE, torch.float32, num_samples=4)
    assert use["kl"] > 1 and 0 < use["active"] <= use["units"]
    assert use["diversity"] > 0.1
    assert use["psnr_best_sample"] >= use["psnr_sample"]


def test_latent_use_is_that_of_the_model(dance, trained, monkeypatch):
    model, size = model_from_checkpoint(load_checkpoint(trained[0] / "best.ckpt"), "best.ckpt")
    sequence = Dataset_Dance(dance, "val", *size).sequences[0]
    use = latent_use(model, sequence, torch.float32)
    prior = predict(model, [sequence], torch.float32)[0][0]
    assert use["psnr_prior"] == pytest.approx(psnr(prior[1:], sequence.frames[1:]).mean().item(), abs=1e-3)
    assert use["gain"] == pytest.approx(use["psnr_posterior"] - use["psnr_prior"])
    assert len(use["kl_per_dimension"]) == 4 and use["units"] == 4 * 16 * 32

    class Collapsed(torch.nn.Module):
        """A model whose latent carries 1 nat in two units and nothing in the others; its posterior predicts better."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def latent_shape(self, height, width):
            return 3, 2, 2

        def rollout(self, first, poses, truth=None, noise=None, posterior_clips=0):
            kl = torch.full((1, 11, 3, 2, 2), ACTIVE / 2)
            kl[:, :, 1, 0] = 1.0
            level = 0.51 if posterior_clips else 0.6
            return Rollout(torch.full((len(first), 11, 3, 16, 32), level), kl)

    grey = sequence._replace(frames=torch.full((12, 3, 16, 32), 0.5))
    monkeypatch.setattr("modules.score.latent.noise_correlation", lambda model, frames, poses: (
        model.rollout(frames[:, 0], poses, posterior_clips=1), 0.5, 1.0))
    use = latent_use(Collapsed(), grey, torch.float32)
    assert (use["active"], use["units"]) == (2, 12)
    assert use["kl_per_dimension"] == pytest.approx([0.02, 2 + 0.01, 0.02])
    assert use["gain"] == pytest.approx(20.0, abs=1e-3)


def test_the_noise_of_a_posterior_is_followed_in_time():
    """In channel 0 the posterior's mean is 2 and stays, in 1 it turns, of the others it says nothing."""
    net = model()

    class Predictor(torch.nn.Module):
        def forward(self, frame_features, pose_features):
            mu = torch.zeros(len(frame_features[-1]), 4, 2, 4)
            mu[:, 0], mu[::2, 1], mu[1::2, 1] = 2.0, 1.0, -1.0
            return mu, mu, torch.zeros_like(mu)

    net.Gaussian_Predictor = Predictor()
    frames, poses = (x[None] / 255 for x in (SEQUENCE.frames, SEQUENCE.poses))
    out, rho, rho_means = noise_correlation(net, frames, poses)
    assert out.kl.shape == (1, 5, 4, 2, 4)
    assert rho_means == pytest.approx((4 - 1) / (4 + 1))
    assert rho == pytest.approx((4 - 1) / (4 + 1 + 4))
