"""What the latent z does: how much information the posterior carries, in how many units, and what it gains in PSNR."""

import torch
from torch import Tensor

from modules.data.pixels import to_float
from modules.data.sequence import Sequence
from modules.device import autocast
from modules.model.vae import VAE_Model, frame_loss
from modules.score.metrics import PERFECT, change, diversity, psnr
from modules.score.predict import draw_noise

ACTIVE = 0.01  # nats: a unit with a smaller mean KL is not in use


@torch.no_grad()
def latent_use(model: VAE_Model, sequence: Sequence, dtype: torch.dtype, num_samples: int = 3) -> dict:
    """Measures over one sequence with all its true frames, every rollout from its first frame.

    kl: KL(q || p), nats per frame. units: all latent units (channel, row, column); active: those whose mean KL is above
    ACTIVE, the others have collapsed (compare Burda, Grosse & Salakhutdinov 2016, section 5.2).
    psnr_prior, psnr_posterior: mean PSNR in dB, z the mean of either distribution; gain: their difference.
    psnr_sample, psnr_best_sample: z drawn from the prior, mean and best of num_samples. bound: see `bound`.
    diversity, change: see metrics.METRICS; change of the true frames and of the samples.
    """
    device = next(model.parameters()).device
    frames, poses = to_float(sequence.frames)[None].to(device), to_float(sequence.poses)[None].to(device)
    noise = torch.stack([draw_noise(model, sequence, (0, sample)) for sample in range(num_samples)])

    def score(predicted: Tensor) -> Tensor:
        return psnr(predicted.cpu(), frames[:, 1:].cpu()).clamp(max=PERFECT).mean(dim=1)

    model.eval()
    with autocast(device, dtype):
        from_posterior = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
        posterior = model.rollout(frames[:, 0], poses, truth=frames, from_posterior=from_posterior)
        prior = model.rollout(frames[:, 0], poses).frames
        many = [x.expand(num_samples, *x.shape[1:]) for x in (frames[:, 0], poses)]
        samples = model.rollout(*many, noise=noise).frames
    kl = posterior.kl[0].mean(dim=0)  # (*latent) nats
    prior_psnr, posterior_psnr = score(prior).item(), score(posterior.frames).item()
    return {
        "kl": kl.sum().item(),
        "active": int((kl > ACTIVE).sum()), "units": kl.numel(),
        "psnr_prior": prior_psnr, "psnr_posterior": posterior_psnr, "gain": posterior_psnr - prior_psnr,
        "bound": bound(model, sequence, dtype),
        "psnr_sample": score(samples).mean().item(), "psnr_best_sample": score(samples).max().item(),
        "diversity": diversity(samples), "change_truth": change(frames[:, 1:]), "change_sample": change(samples),
    }


@torch.no_grad()
def bound(model: VAE_Model, sequence: Sequence, dtype: torch.dtype) -> float:
    """The bound of log p(frames | x_1, poses) in nats a frame, up to a constant: the mean of -D/2 log(mse) - KL, see
    frame_loss. z is the posterior's, the last frame the generated one, so it is the bound of the test's own samples."""
    device = next(model.parameters()).device
    truth, poses = (to_float(images)[None].to(device) for images in (sequence.frames, sequence.poses))
    noise, from_posterior = draw_noise(model, sequence, (0,))[None], torch.ones(1, 1, 1, 1, device=device).bool()
    with autocast(device, dtype):
        out = model.rollout(truth[:, 0], poses, truth=truth, noise=noise, from_posterior=from_posterior)
    loss, _ = frame_loss("calibrated", out.frames, truth[:, 1:], out.kl.flatten(2).sum(dim=2), 1.0)
    return -loss.mean().item() * truth[0, 0].numel() / 2
