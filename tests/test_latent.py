"""Measures of the latent and the bound, on models for which the answer is known."""

import math

import pytest
import torch
from conftest import noise_frames

from modules.data.sequence import Sequence
from modules.model.vae import MSE_FLOOR, Rollout, VAE_Model
from modules.score.latent import ACTIVE, bound, latent_use
from modules.score.metrics import psnr
from modules.score.predict import draw_noise, predict

SEQUENCE = Sequence("val0", noise_frames(6, 3, 16, 32), noise_frames(6, 3, 16, 32, seed=1))


@pytest.mark.parametrize("used", [False, True])
def test_an_ignored_and_a_used_latent(used):
    """Ignored: the posterior is N(0, I), and z is multiplied by zero."""
    torch.manual_seed(0)
    model = VAE_Model("multiscale", F_dim=16, L_dim=16, N_dim=4, D_out_dim=16).eval()
    init = torch.nn.init.normal_ if used else torch.nn.init.zeros_
    for weights in (model.Gaussian_Predictor.out.weight, model.Decoder_Fusion.latent.weight):
        init(weights)
    torch.nn.init.zeros_(model.Gaussian_Predictor.out.bias)
    use = latent_use(model, SEQUENCE, torch.float32, num_samples=4)
    assert use["units"] == 4 * 2 * 4 and use["psnr_best_sample"] >= use["psnr_sample"]
    prior = predict(model, [SEQUENCE], torch.float32)[0][0]
    assert use["psnr_prior"] == pytest.approx(psnr(prior[1:], SEQUENCE.frames[1:]).mean().item(), abs=1e-3)
    if used:
        assert use["kl"] > 1 and 0 < use["active"] <= use["units"] and use["diversity"] > 0.1
    else:
        assert use["kl"] == use["active"] == 0 and use["diversity"] == pytest.approx(0, abs=1e-4)
        assert use["psnr_prior"] == pytest.approx(use["psnr_posterior"]) == pytest.approx(use["psnr_sample"])


def test_active_units_and_gain_by_hand():
    class Model(torch.nn.Linear):
        """The latent carries 1 nat in two units and half of ACTIVE in the others; the posterior predicts better."""

        def latent_shape(self, height, width):
            return 3, 2, 2

        def rollout(self, x_1, poses, *, truth=None, noise=None, from_posterior=None):
            kl = torch.full((1, 5, 3, 2, 2), ACTIVE / 2)
            kl[:, :, 1, 0] = 1.0
            level = 0.6 if truth is None else 0.51
            return Rollout(torch.full((len(x_1), 5, 3, 16, 32), level), kl)

    use = latent_use(Model(1, 1), SEQUENCE._replace(frames=torch.full((6, 3, 16, 32), 0.5)), torch.float32)
    assert (use["active"], use["units"]) == (2, 12)
    assert use["kl"] == pytest.approx(10 * (ACTIVE / 2) + 2 * 1.0)
    assert use["gain"] == pytest.approx(20.0, abs=1e-3)
    nats = 10 * (ACTIVE / 2) + 2 * 1.0
    assert use["bound"] == pytest.approx(-3 * 16 * 32 / 2 * math.log(1e-4 + MSE_FLOOR) - nats, rel=1e-4)


def test_the_bound_is_the_calibrated_loss_of_a_sampled_rollout():
    """The generated frame is fed back, the true one is only seen by the posterior; every call is the same."""
    torch.manual_seed(0)
    model = VAE_Model("multiscale", F_dim=16, L_dim=16, N_dim=4, D_out_dim=16, prior="learned")
    noise, truth = draw_noise(model, SEQUENCE, (0,)), SEQUENCE.frames / 255
    last, bounds = truth[None, :1], []
    with torch.no_grad():
        for t in range(1, 6):
            out = model.rollout(
                truth[:1], SEQUENCE.poses[None, t - 1 : t + 1], last=last, truth=truth[None, t - 1 : t + 1],
                noise=noise[None, t - 1 : t], from_posterior=torch.ones(1, 1, 1, 1, dtype=torch.bool))
            last = out.frames
            mse = (last[0, 0] - truth[t]).square().mean()
            bounds.append(-(3 * 16 * 32 / 2 * torch.log(mse + MSE_FLOOR) + out.kl.sum()))
    assert bound(model, SEQUENCE, torch.float32) == pytest.approx(float(sum(bounds) / 5), rel=1e-4)
