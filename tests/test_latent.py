"""What the latent is said to do, on models where the answer is known."""

import pytest
import torch
from conftest import noise_frames

from dataloader import Dataset_Dance, Sequence
from modules.model.checkpoint import load_checkpoint, model_from_checkpoint
from modules.model.vae import Noise, Rollout, VAE_Model
from modules.runtime import InputError
from modules.score.latent import ACTIVE, latent_use, measure_noise
from modules.score.metrics import psnr
from modules.score.predict import draw_noise, predict

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


def test_latent_use_is_that_of_the_model(dance, trained):
    model, size = model_from_checkpoint(load_checkpoint(trained[0] / "best.ckpt"), "best.ckpt")
    sequence = Dataset_Dance(dance, "val", *size).sequences[0]
    use = latent_use(model, sequence, torch.float32)
    prior = predict(model, [sequence], torch.float32)[0][0]
    assert use["psnr_prior"] == pytest.approx(psnr(prior[1:], sequence.frames[1:]).mean().item(), abs=1e-3)
    assert use["gain"] == pytest.approx(use["psnr_posterior"] - use["psnr_prior"])
    assert len(use["kl_per_dimension"]) == 4 and use["units"] == 4 * 16 * 32

    class Collapsed(torch.nn.Module):
        """A model whose latent carries 1 nat in two units and nothing in the others; its posterior predicts better."""

        noise = None

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
    use = latent_use(Collapsed(), grey, torch.float32)
    assert (use["active"], use["units"]) == (2, 12)
    assert use["kl_per_dimension"] == pytest.approx([0.02, 2 + 0.01, 0.02])
    assert use["gain"] == pytest.approx(20.0, abs=1e-3)


def test_noise_is_measured_where_the_posterior_is_known():
    """In channel 0 the posterior's mean is 2 and stays, in 1 it turns, of the others it says nothing."""
    net = model()

    class Predictor(torch.nn.Module):
        def forward(self, frame_features, pose_features):
            mu = torch.zeros(len(frame_features[-1]), 4, 2, 4)
            mu[:, 0], mu[::2, 1], mu[1::2, 1] = 2.0, 1.0, -1.0
            return mu, mu, torch.zeros_like(mu)

    net.Gaussian_Predictor = Predictor()
    share, rho = measure_noise(net, SEQUENCE, torch.float32)
    torch.testing.assert_close(share[:, 0, 0], torch.tensor([0.8, 0.5, 0.0, 0.0]))
    assert rho == pytest.approx((4 - 1) / (4 + 1))

    net = model()
    torch.nn.init.zeros_(net.Gaussian_Predictor.out.weight)
    assert float(measure_noise(net, SEQUENCE, torch.float32).share.max()) == 0, "a posterior that says nothing"


def test_noise_goes_on_as_the_model_says():
    net, long = model(), SEQUENCE._replace(poses=SEQUENCE.poses[:1].expand(4001, -1, -1, -1))
    anew = draw_noise(net, long, (0,))
    share = torch.tensor([0.0, 0.5, 1.0, 1.0])[:, None, None].expand(4, 2, 4)
    net.noise = Noise(share, 0.9)
    noise = draw_noise(net, long, (0,))
    assert torch.equal(noise[:, 0], anew[:, 0]), "a unit without a share is drawn anew"
    assert torch.equal(noise, draw_noise(net, long, (0,))) and not torch.equal(noise, draw_noise(net, long, (1,)))
    assert noise.std(dim=0).mean(dim=(1, 2)).tolist() == pytest.approx([1] * 4, abs=0.1)
    together = (noise[1:] * noise[:-1]).mean(dim=(0, 2, 3))
    assert together.tolist() == pytest.approx([0, 0.45, 0.9, 0.9], abs=0.1)
    wider = long._replace(poses=long.poses.repeat(1, 1, 1, 2))
    assert draw_noise(net, wider, (0,)).shape == (4000, 4, 2, 8)


def test_noise_comes_with_the_checkpoint(trained, tmp_path):
    contents = load_checkpoint(trained[0] / "best.ckpt")
    net, _ = model_from_checkpoint(contents, "best.ckpt")
    assert torch.equal(net.noise.share, contents["noise"]["share"]) and net.noise.rho == contents["noise"]["rho"]
    assert model_from_checkpoint(contents | {"noise": None}, "old.ckpt")[0].noise is None
    share = contents["noise"]["share"]
    wrong_shares = [{"share": wrong, "rho": 0.5} for wrong in (share - 2, share[0], share * float("nan"), 1)]
    for wrong in (3, {"share": share}, {"share": share, "rho": 1.5}, {"share": share, "rho": "a"}, *wrong_shares):
        with pytest.raises(InputError, match="its noise has no"):
            model_from_checkpoint(contents | {"noise": wrong}, "wrong.ckpt")
