"""What the latent is said to do, on models where the answer is known."""

import pytest
import torch
from conftest import noise_frames

from dataloader import Sequence
from modules.latent import latent_use
from modules.vae import VAE_Model

SEQUENCE = Sequence("val0", noise_frames(6, 3, 16, 32), noise_frames(6, 3, 16, 32, seed=1))


def model():
    torch.manual_seed(0)
    return VAE_Model("multiscale", F_dim=16, L_dim=16, N_dim=4, D_out_dim=16).eval()


def test_a_latent_that_is_ignored_is_said_to_be():
    """The posterior starts as N(0, I) and with a zero map z does nothing."""
    net = model()
    torch.nn.init.zeros_(net.Decoder_Fusion.latent.weight)
    use = latent_use(net, SEQUENCE, torch.float32)
    assert use["kl"] == 0 and use["active_units"] == 0 and use["units"] == 4 * 2 * 4
    assert use["diversity"] == pytest.approx(0, abs=1e-4)
    assert use["psnr_prior_mean"] == pytest.approx(use["psnr_posterior"]) == pytest.approx(use["psnr_prior_sample"])


def test_a_latent_that_is_used_is_measured():
    net = model()
    with torch.no_grad():
        torch.nn.init.normal_(net.Gaussian_Predictor.out.weight)
        torch.nn.init.normal_(net.Decoder_Fusion.latent.weight)
    use = latent_use(net, SEQUENCE, torch.float32, num_samples=4)
    assert use["kl"] > 1 and 0 < use["active_units"] <= use["units"]
    assert use["diversity"] > 0.1
    assert use["psnr_best_sample"] >= use["psnr_prior_sample"]
