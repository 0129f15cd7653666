"""The rollout: what it feeds, pairs and returns, and the KL term."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from modules.data.sequence import Sequence
from modules.model import vae
from modules.model.layers import gaussian_kl, reparameterise, split_gaussian
from modules.model.vae import VAE_Model
from modules.score.predict import predict

MODELS = [("template", "standard"), ("template", "learned"), ("multiscale", "standard"), ("multiscale", "learned")]


@pytest.fixture(scope="module", params=MODELS, ids=" ".join)
def model(request):
    """A small model of each architecture and prior, every weight drawn at random (some start at zero)."""
    torch.manual_seed(0)
    arch, prior = request.param
    model = VAE_Model(arch, F_dim=16, L_dim=8, N_dim=4, D_out_dim=16, prior=prior).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def clip(B=2, T=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(B, T, 3, 8, 16, generator=g), torch.rand(B, T, 3, 8, 16, generator=g)


def test_kl_agrees_with_torch_distributions():
    mu, logvar, prior_mu, prior_logvar = torch.randn(4, 2, 3, 4, 5).unbind()
    posterior = Normal(mu, (logvar / 2).exp())
    standard = kl_divergence(posterior, Normal(0, 1))
    torch.testing.assert_close(gaussian_kl(mu, logvar, 0 * mu, 0 * mu), standard, rtol=1e-4, atol=1e-5)
    learned = kl_divergence(posterior, Normal(prior_mu, (prior_logvar / 2).exp()))
    torch.testing.assert_close(gaussian_kl(mu, logvar, prior_mu, prior_logvar), learned, rtol=1e-4, atol=1e-5)


def test_kl_is_computed_in_float32():
    assert gaussian_kl(*torch.zeros(4, 1, dtype=torch.bfloat16)).dtype == torch.float32


def test_logvar_is_bounded():
    mu, logvar = split_gaussian(torch.tensor([[0.0], [1e9]]).reshape(1, 2, 1, 1))
    assert torch.isfinite(gaussian_kl(mu, logvar, 0 * mu, 0 * mu)).all()


def test_reparameterisation_has_the_gaussians_moments_and_gradient():
    mu, logvar = torch.full((20000,), 0.7, requires_grad=True), torch.full((20000,), -1.0, requires_grad=True)
    noise = torch.randn(20000, generator=torch.Generator().manual_seed(0))
    z = reparameterise(mu, logvar, noise)
    assert z.mean().item() == pytest.approx(0.7, abs=0.02)
    assert z.var().item() == pytest.approx(2.718281828**-1, abs=0.02)
    z.sum().backward()
    torch.testing.assert_close(mu.grad, torch.ones(20000))
    torch.testing.assert_close(logvar.grad, (0.5 * noise * torch.exp(torch.tensor(-0.5))))
    assert torch.equal(reparameterise(mu, logvar, None), mu)


@torch.no_grad()
def test_frame_t_is_made_from_pose_t(model):
    frames, poses = clip()
    before = model.rollout(frames[:, 0], poses).frames
    changed = poses.clone()
    changed[:, 3] = 1 - changed[:, 3]
    after = model.rollout(frames[:, 0], changed).frames
    assert torch.equal(before[:, :2], after[:, :2]), "frames 2 and 3 must not see pose 4"
    assert not torch.equal(before[:, 2], after[:, 2]), "frame 4 must see pose 4"
    changed = poses.clone()
    changed[:, 0] = 1 - changed[:, 0]
    assert torch.equal(model.rollout(frames[:, 0], changed).frames, before), "the given frame's pose is not used"


@torch.no_grad()
def test_rollout_feeds_its_own_last_frame(model):
    frames, poses = clip()
    whole = model.rollout(frames[:, 0], poses).frames
    rest = model.rollout(frames[:, 0], poses[:, 1:], start=whole[:, 0]).frames
    torch.testing.assert_close(whole[:, 1:], rest)
    rest = model.rollout(frames[:, 0], poses[:, 2:], start=whole[:, 1]).frames
    torch.testing.assert_close(whole[:, 2:], rest)


@torch.no_grad()
def test_teacher_forcing_feeds_the_true_frames(model):
    frames, poses = clip()
    forced = model.rollout(frames[:, 0], poses, truth=frames, feed_truth=True).frames
    for t in range(1, 5):  # frame t + 1 is made from the true frame t
        expected = model.rollout(frames[:, 0], poses[:, t - 1 : t + 1], start=frames[:, t - 1]).frames
        torch.testing.assert_close(forced[:, t - 1 : t], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("posterior_clips", [0, 1, 3])
def test_teacher_forcing_is_one_batch_with_the_numbers_of_step_after_step(model, posterior_clips, monkeypatch):
    frames, poses = clip(B=3)
    noise, given = torch.randn(3, 4, *model.latent_shape(8, 16)), torch.rand(3, 3, 8, 16)
    results = []
    for step_after_step in (False, True):
        monkeypatch.setattr(model, "recurrent_prior", step_after_step)  # each of its steps waits for the one before
        out = model.rollout(
            frames[:, 0], poses, start=given, truth=frames, noise=noise, posterior_clips=posterior_clips,
            feed_truth=True,
        )
        model.zero_grad()
        (out.frames.square().mean() + out.kl.mean()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append((out.frames, out.kl, gradients))
    assert results[0][1].shape == (3, 4, *model.latent_shape(8, 16))
    assert not results[0][1][posterior_clips:].any()
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_batch_equals_the_sequences_one_by_one(model, monkeypatch):
    frames, poses = clip(B=3, T=12)
    noise = torch.randn(3, 11, *model.latent_shape(8, 16))
    together = model.rollout(frames[:, 0], poses, noise=noise).frames
    monkeypatch.setattr(vae, "POSE_PIXELS", 4 * 8 * 16)  # pose features of four frames at once
    for i in range(3):
        alone = model.rollout(frames[i : i + 1, 0], poses[i : i + 1], noise=noise[i : i + 1]).frames
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_posterior_sees_the_frame_it_predicts_and_the_prior_does_not(model):
    frames, poses = clip()
    changed = frames.clone()
    changed[:, 4] = 1 - changed[:, 4]
    free, free_changed = (
        model.rollout(x[:, 0], poses, truth=x, posterior_clips=2, z_from="prior") for x in (frames, changed)
    )
    assert torch.equal(free.frames, free_changed.frames), "z of the prior must not know the true frame"
    assert not torch.equal(free.kl[:, 3], free_changed.kl[:, 3])
    told, told_changed = (model.rollout(x[:, 0], poses, truth=x, posterior_clips=2) for x in (frames, changed))
    assert torch.equal(told.frames[:, :3], told_changed.frames[:, :3])
    assert not torch.equal(told.frames[:, 3], told_changed.frames[:, 3])


@torch.no_grad()
def test_only_the_leading_clips_see_the_posterior(model):
    frames, poses = clip(B=3)
    noise = torch.randn(3, 4, *model.latent_shape(8, 16))
    noise[1:] = 0
    mixed = model.rollout(frames[:, 0], poses, truth=frames, noise=noise, posterior_clips=1)
    told = model.rollout(frames[:, 0], poses, truth=frames, noise=noise, posterior_clips=3)
    mean = model.rollout(frames[:, 0], poses)
    assert mixed.kl.shape == (3, 4, *model.latent_shape(8, 16)) and not mixed.kl[1:].any()
    torch.testing.assert_close(mixed.frames[0], told.frames[0])
    torch.testing.assert_close(mixed.frames[1:], mean.frames[1:])
    torch.testing.assert_close(mixed.kl[0], told.kl[0])


@torch.no_grad()
def test_start_is_the_last_frame_of_the_first_step_only(model):
    frames, poses = clip()
    started = model.rollout(frames[:, 0], poses, start=frames[:, 3]).frames
    same = torch.equal(started[:, 0], model.rollout(frames[:, 0], poses).frames[:, 0])
    assert same != model.sees_last
    rest = model.rollout(frames[:, 0], poses[:, 1:], start=started[:, 0]).frames
    torch.testing.assert_close(started[:, 1:], rest)


@torch.no_grad()
def test_prediction_never_computes_the_posterior(model, monkeypatch):
    monkeypatch.setattr(model.Gaussian_Predictor, "forward", None)
    frames, poses = clip()
    assert not model.rollout(frames[:, 0], poses).kl.any()


def test_posterior_without_truth_is_refused(model):
    frames, poses = clip()
    with pytest.raises(ValueError, match="true frames"):
        model.rollout(frames[:, 0], poses, posterior_clips=1)


@torch.no_grad()
def test_uint8_pictures_are_read_as_zero_to_one(model):
    frames, poses = (x.mul(255).round().to(torch.uint8) for x in clip())
    torch.testing.assert_close(model.rollout(frames[:, 0], poses).frames,
                               model.rollout(frames[:, 0] / 255, poses / 255).frames)


class RecurrentPrior(VAE_Model):
    """A prior with a memory, as in Denton & Fergus 2018: what the model alone must change for it."""

    recurrent_prior = True

    def __init__(self):
        super().__init__(F_dim=16, L_dim=8, N_dim=4, D_out_dim=16, prior="learned")
        self.memory = nn.Conv2d(8, 4, 1)

    def prior_step(self, last_features, pose, state):
        mu, logvar, _ = super().prior_step(last_features, pose, None)
        mu = self.memory(torch.cat([mu, torch.zeros_like(mu) if state is None else state], dim=1))
        return mu, logvar, mu


@pytest.mark.parametrize("feed_truth", [False, True])
def test_a_recurrent_prior_is_a_matter_of_the_model_alone(feed_truth):
    torch.manual_seed(0)
    model = RecurrentPrior()
    frames, poses = torch.rand(2, 2, 5, 3, 8, 8)
    out = model.rollout(frames[:, 0], poses, truth=frames, posterior_clips=2, feed_truth=feed_truth)
    out.kl.sum().backward()
    assert model.memory.weight.grad[:, 4:].abs().sum() > 0, "the KL of later frames reaches the memory"
    whole = model.rollout(frames[:, 0], poses)
    before = model.rollout(frames[:, 0], poses[:, :3])
    after = model.rollout(frames[:, 0], poses[:, 2:], start=before.frames[:, -1], state=before.state)
    torch.testing.assert_close(torch.cat([before.frames, after.frames], dim=1), whole.frames)


def test_unequal_sequences_are_predicted_as_alone_and_cost_their_frames():
    torch.manual_seed(0)
    model = VAE_Model(F_dim=16, L_dim=8, N_dim=4, D_out_dim=16).eval()
    calls, step = [], model.step
    model.step = lambda first, *rest, **named: calls.append(len(first)) or step(first, *rest, **named)
    lengths = [3, 9, 3, 5]
    sequences = [Sequence(str(i), torch.rand(1, 3, 8, 8), torch.rand(T, 3, 8, 8)) for i, T in enumerate(lengths)]
    for num_samples in (0, 2):
        together = predict(model, sequences, torch.float32, num_samples=num_samples)
        assert [film.shape[1] for film in together] == lengths
        alone = predict(model, sequences[:1], torch.float32, num_samples=num_samples)
        torch.testing.assert_close(together[0], alone[0], rtol=1e-4, atol=1e-4)
        padded = model.rollout(torch.cat([s.frames for s in sequences]), torch.stack([
            torch.cat([s.poses, s.poses[-1:].expand(9 - len(s.poses), -1, -1, -1)]) for s in sequences]))
        if not num_samples:
            for film, frames in zip(together, padded.frames, strict=True):
                torch.testing.assert_close(film[0, 1:], frames[: film.shape[1] - 1].clamp(0, 1), rtol=1e-4, atol=1e-4)
    assert calls[:8] == [4, 4, 2, 2, 1, 1, 1, 1]
