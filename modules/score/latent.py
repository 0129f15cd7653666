"""What the latent z does: how much information the posterior carries, in how many units, and what it gains in PSNR."""

import torch
from torch import Tensor

from modules.data.pixels import to_float
from modules.data.sequence import Sequence
from modules.device import autocast
from modules.model.vae import VAE_Model
from modules.score.metrics import PERFECT, change, diversity, psnr
from modules.score.predict import draw_noise

ACTIVE = 0.01  # nats: a unit with a smaller mean KL is not in use


@torch.no_grad()
def latent_use(model: VAE_Model, sequence: Sequence, dtype: torch.dtype, num_samples: int = 3) -> dict:
    """Measures over one sequence with all its true frames, every rollout from its first frame.

    kl: KL(q || p), nats per frame. kl_per_dimension: of each latent channel. units: all latent units (channel, row,
    column); active: those whose mean KL is above ACTIVE, the others have collapsed (compare Burda, Grosse &
    Salakhutdinov 2016, section 5.2).
    psnr_prior, psnr_posterior: mean PSNR in dB, z the mean of either distribution; gain: their difference.
    psnr_sample, psnr_best_sample: z drawn from the prior, mean and best of num_samples.
    diversity, change: see metrics.METRICS; change of the true frames and of the samples.
    """
    device = next(model.parameters()).device
    frames, poses = to_float(sequence.frames)[None].to(device), to_float(sequence.poses)[None].to(device)
    noise = torch.stack([draw_noise(model, sequence, (0, sample)) for sample in range(num_samples)])

    def score(predicted: Tensor) -> Tensor:
        return psnr(predicted, frames[:, 1:]).clamp(max=PERFECT).mean(dim=1)

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
        "kl": kl.sum().item(), "kl_per_dimension": kl.flatten(1).sum(dim=1).tolist(),
        "active": int((kl > ACTIVE).sum()), "units": kl.numel(),
        "psnr_prior": prior_psnr, "psnr_posterior": posterior_psnr, "gain": posterior_psnr - prior_psnr,
        "psnr_sample": score(samples).mean().item(), "psnr_best_sample": score(samples).max().item(),
        "diversity": diversity(samples), "change_truth": change(frames[:, 1:]), "change_sample": change(samples),
    }
