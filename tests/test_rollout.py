"""The rollout against a plain loop: what it feeds, pairs and returns, its KL and its gradient. Training learns."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributions import Normal, kl_divergence

from modules.data.sequence import Sequence
from modules.model.layers import gaussian_kl, reparameterise, split_gaussian
from modules.model.vae import VAE_Model, frame_loss
from modules.options import PRESETS, parse_trainer
from modules.score.predict import predict
from modules.train import feed
from modules.train.distributed import Ranks
from modules.train.feed import Feed

SIZES = {"F_dim": 16, "L_dim": 8, "N_dim": 4, "D_out_dim": 16}
MODELS = [(arch, prior) for arch in ("template", "multiscale") for prior in ("standard", "learned", "learned2")]
H, W, T = 8, 16, 5


def make_model(arch, prior="standard"):
    """A small model with every weight drawn at random (some start at zero)."""
    torch.manual_seed(0)
    model = VAE_Model(arch, **SIZES, prior=prior).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module", params=MODELS, ids=" ".join)
def model(request):
    return make_model(*request.param)


def clip(B=2, seed=0):
    return torch.rand(2, B, T, 3, H, W, generator=torch.Generator().manual_seed(seed))


def plain_rollout(model, x_1, poses, truth=None, noise=None, from_posterior=None, teacher_forcing=False):
    """The rollout of one clip (T, …), written down from its description: frames, and nats a frame."""
    before, last, frames, nats = x_1[None], x_1[None], [], []
    for t in range(1, len(poses)):
        pose, seen = model.label_transformation(poses[t, None]), model.frame_transformation(last)
        if model.prior is None:
            prior = Normal(torch.zeros(1, *model.latent_shape(H, W)), 1.0)
        else:
            two = [model.frame_transformation(before), seen]
            _, mu, logvar = model.prior(model.joined(two[-model.last_frames :]), pose)
            prior = Normal(mu, (logvar / 2).exp())
        chosen = prior
        if truth is not None:
            _, mu, logvar = model.Gaussian_Predictor(model.frame_transformation(truth[t, None]), pose)
            posterior = Normal(mu, (logvar / 2).exp())
            nats.append(kl_divergence(posterior, prior).sum())
            chosen = posterior if from_posterior else prior
        z = chosen.loc if noise is None else chosen.loc + chosen.scale * noise[t - 1, None]
        fused = model.Decoder_Fusion(seen, pose, z, model.frame_transformation(x_1[None]))
        frames.append(model.Generator(fused, x_1[None])[0])
        before, last = last, truth[t, None] if teacher_forcing else frames[-1][None]
    return torch.stack(frames), torch.stack(nats) if nats else None


@pytest.mark.parametrize("teacher_forcing", [False, True], ids=["free", "forced"])
@pytest.mark.parametrize("mask", [None, (True, False, True), (True, True, True)], ids=["prior", "some", "all"])
def test_rollout_is_the_plain_loop(model, mask, teacher_forcing):
    truth, poses = clip(B=3)
    noise = torch.randn(3, T - 1, *model.latent_shape(H, W), generator=torch.Generator().manual_seed(1))
    from_posterior = None if mask is None else torch.tensor(mask).reshape(-1, 1, 1, 1)
    out = model.rollout(truth[:, 0], poses, truth=truth, noise=noise, from_posterior=from_posterior,
                        teacher_forcing=teacher_forcing)
    loss = frame_loss("calibrated", out.frames, truth[:, 1:], out.kl.flatten(2).sum(dim=2), 0.3)[0].mean()
    clips = [plain_rollout(model, truth[i, 0], poses[i], truth[i], noise[i], mask and mask[i], teacher_forcing)
             for i in range(3)]
    frames, nats = (torch.stack(values) for values in zip(*clips, strict=True))
    torch.testing.assert_close(out.frames, frames, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.kl.flatten(2).sum(dim=2), nats, rtol=1e-4, atol=1e-4)
    squares = (frames - truth[:, 1:]).square().mean(dim=(2, 3, 4))
    expected = (torch.log(squares + 1e-6) + 0.3 * nats * 2 / (3 * H * W)).mean()
    gradients = [torch.autograd.grad(x, list(model.parameters()), allow_unused=True) for x in (loss, expected)]
    largest = max(g.abs().max() for g in gradients[1] if g is not None)
    for found, plain in zip(*gradients, strict=True):
        plain = torch.zeros(1) if plain is None else plain
        torch.testing.assert_close(plain if found is None else found, plain.expand_as(plain), rtol=1e-3,
                                   atol=1e-5 * float(largest))


@torch.no_grad()
@pytest.mark.parametrize("noisy", [False, True], ids=["mean", "sample"])
def test_prediction_is_the_plain_loop_and_never_computes_the_posterior(model, noisy, monkeypatch):
    truth, poses = (x.mul(255).round().to(torch.uint8) for x in clip())
    noise = torch.randn(2, T - 1, *model.latent_shape(H, W)) if noisy else None
    monkeypatch.setattr(model.Gaussian_Predictor, "forward", None)
    out = model.rollout(truth[:, 0], poses, noise=noise)
    assert out.kl is None
    for i in range(2):
        frames, _ = plain_rollout(model, truth[i, 0] / 255, poses[i] / 255, noise=None if noise is None else noise[i])
        torch.testing.assert_close(out.frames[i], frames, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_rollout_can_begin_at_any_last_frame(model):
    truth, poses = clip()
    whole = model.rollout(truth[:, 0], poses).frames
    rest = model.rollout(truth[:, 0], poses[:, 2:], last=whole[:, 2 - model.last_frames : 2]).frames
    torch.testing.assert_close(whole[:, 2:], rest)
    for k in range(model.last_frames):
        last = torch.stack([truth[:, 0]] * model.last_frames, dim=1)
        torch.testing.assert_close(model.rollout(truth[:, 0], poses, last=last).frames, whole)
        last[:, k] = truth[:, 3]
        assert torch.equal(whole[:, 0], model.rollout(truth[:, 0], poses, last=last).frames[:, 0]) != model.uses_last
    for model.bounded, most in ((True, 1.0), (False, 2.0)):  # what is fed back cannot grow to infinity
        far, bound = (model.rollout(truth[:, 0], poses, last=torch.full((2, model.last_frames, 3, H, W), x)).frames
                      for x in (1e30, most))
        assert torch.equal(far, bound) and bound.isfinite().all()


def test_true_frames_are_asked_for(model):
    truth, poses = clip()
    for named in ({"teacher_forcing": True}, {"from_posterior": torch.ones(2, 1, 1, 1, dtype=torch.bool)}):
        with pytest.raises(ValueError, match="true frames"):
            model.rollout(truth[:, 0], poses, **named)


@torch.no_grad()
@pytest.mark.parametrize("num_samples", [0, 2])
def test_sequences_of_any_length_are_predicted_as_alone(num_samples):
    model, lengths = make_model("template"), [3, 60, 3, 40]
    sequences = [Sequence(str(i), torch.rand(1, 3, 8, 8), torch.rand(n, 3, 8, 8)) for i, n in enumerate(lengths)]
    together = predict(model, sequences, torch.float32, num_samples=num_samples)
    assert [frames.shape for frames in together] == [(max(1, num_samples), n, 3, 8, 8) for n in lengths]
    alone = predict(model, sequences[:1], torch.float32, num_samples=num_samples)
    torch.testing.assert_close(together[0], alone[0], rtol=1e-4, atol=1e-4)
    if not num_samples:
        for sequence, frames in zip(sequences, together, strict=True):
            plain = model.rollout(sequence.frames, sequence.poses[None]).frames[0].clamp(0, 1)
            torch.testing.assert_close(frames[0, 1:], plain, rtol=1e-4, atol=1e-4)


def test_kl_agrees_with_torch_and_is_computed_in_float32():
    mu, logvar, prior_mu, prior_logvar = torch.randn(4, 2, 3, 4, 5).unbind()
    expected = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(prior_mu, (prior_logvar / 2).exp()))
    torch.testing.assert_close(gaussian_kl(mu, logvar, prior_mu, prior_logvar), expected, rtol=1e-4, atol=1e-5)
    assert gaussian_kl(*torch.zeros(4, 1, dtype=torch.bfloat16)).dtype == torch.float32
    mu, logvar = split_gaussian(torch.tensor([[0.0], [1e9]]).reshape(1, 2, 1, 1))
    assert torch.isfinite(gaussian_kl(mu, logvar, 0 * mu, 0 * mu)).all(), "logvar is bounded"


def test_reparameterisation_is_its_formula_and_has_its_gradient():
    mu, logvar, noise = torch.randn(3, 50).unbind()
    mu, logvar = mu.requires_grad_(), logvar.requires_grad_()
    z = reparameterise(mu, logvar, noise)
    torch.testing.assert_close(z, mu + noise * logvar.exp().sqrt())
    z.sum().backward()
    torch.testing.assert_close(mu.grad, torch.ones(50))
    torch.testing.assert_close(logvar.grad, 0.5 * noise * torch.exp(0.5 * logvar).detach())


def run_flags(dance, folder, preset, *flags):
    sizes = [part for name, size in SIZES.items() for part in (f"--{name}", str(size))]
    return parse_trainer(["--DR", str(dance), "--save_root", str(folder), "--preset", preset, *sizes, "--frame_H", "16",
                          "--frame_W", "32", "--train_vi_len", "3", *flags])


@pytest.mark.parametrize("preset, flags", [
    ("best", "--L_dim 32 --D_out_dim 32 --epoch_steps 80 --batch_size 8 --lr 1e-2 --warmup_steps 5 --shift_right 0"),
    ("template", "--epoch_steps 20 --batch_size 2 --lr 3e-3 --tfr 0"),
])
def test_training_learns(dance, tmp_path, preset, flags):
    """The loss falls, and the default predicts better than the first frame: a clip of 30 frames."""
    from modules.score.metrics import psnr
    from Trainer import Trainer

    trainer = Trainer(run_flags(dance, tmp_path, preset, "--device", "cpu", "--num_epoch", "1", *flags.split()))
    assert trainer.model.bounded == trainer.best_model.bounded == ("bounded" in PRESETS[preset])
    losses = [float(trainer.step(batch)[0][0]) for batch in trainer.feed.batches(0)]
    assert sum(losses[-5:]) < sum(losses[:5]) - 4
    (begin, end), data = trainer.data[0].clips[0], trainer.data[0]
    truth, poses = data.frames[begin:end], data.poses[begin:end]
    with torch.no_grad():
        frames = trainer.best_model.eval().rollout(truth[:1], poses[None]).frames[0]
    if preset == "best":
        assert psnr(frames, truth[1:]).mean() > psnr(truth[:1].expand_as(truth[1:]), truth[1:]).mean() + 0.3


@pytest.mark.parametrize("preset", PRESETS)
def test_no_tensor_stays_on_the_cpu_where_there_is_a_gpu(dance, tmp_path, preset, monkeypatch):
    """Feed, rollout, loss and predict on a device that is only pretended: an operation on two devices is an error."""
    from dataloader import Dataset_Dance

    args = run_flags(dance, tmp_path, *preset.split(), "--num_epoch", "1", "--epoch_steps", "2")
    data = Dataset_Dance(dance, "train", 16, 32, train_vi_len=3)
    data.decode()
    monkeypatch.setattr(feed, "random_generator", lambda device, *parts: torch.Generator().manual_seed(0))
    monkeypatch.setattr(feed, "toss", lambda seed, epoch, tfr: tfr > 0)
    device = torch.device("cuda:0")
    with FakeTensorMode(allow_non_fake_inputs=True):
        with device:
            model = VAE_Model(args.arch, **SIZES, prior=args.prior)
        assert next(model.parameters()).device == device
        batch = next(iter(Feed(args, data, model.latent_shape(16, 32), Ranks(), device, model.last_frames).batches(0)))
        out = model.rollout(batch.x_1, batch.poses, last=batch.last, truth=batch.frames.float() / 255,
                            noise=batch.noise, from_posterior=batch.from_posterior,
                            teacher_forcing=batch.teacher_forcing)
        kl = out.kl.flatten(2).sum(dim=2)
        loss, _ = frame_loss(args.loss, out.frames, batch.frames[:, 1:].float() / 255, kl, batch.beta)
        tensors = [x for x in batch if isinstance(x, torch.Tensor)]
        assert {x.device for x in (*tensors, out.frames, loss)} == {device} and len(tensors) >= 8
        sequences = [Sequence("0", torch.zeros(1, 3, 16, 32), torch.zeros(4, 3, 16, 32))]
        assert predict(model, sequences, torch.float32)[0].device.type == "cpu"


