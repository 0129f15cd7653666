"""What the latent z does: how much the posterior tells, how many units it uses, and what that is worth in PSNR."""

import torch
from torch import Tensor

from dataloader import Sequence
from modules.data.pixels import to_float
from modules.device import autocast, random_generator
from modules.model.vae import VAE_Model
from modules.score.metrics import PERFECT, diversity, psnr

ACTIVE = 0.01  # nats: a unit that carries less on average is not in use


@torch.no_grad()
def latent_use(
    model: VAE_Model, sequence: Sequence, dtype: torch.dtype, seed: int = 0, num_samples: int = 3
) -> dict:
    """Measures over one sequence with all its true frames, every rollout from its first frame.

    kl: KL(q || p), nats a frame. kl_per_dimension: of each of the latent's channels. active, units: units (channel,
    row, column) whose KL is above ACTIVE on average, and all of them; the others have collapsed (compare Burda, Grosse
    & Salakhutdinov 2016, section 5.2).
    psnr_prior, psnr_posterior: mean PSNR in dB, z the mean of either distribution; gain: their difference.
    psnr_sample, psnr_best_sample: z drawn from the prior, mean and best of num_samples. diversity: see
    metrics.COLUMNS.
    """
    device = next(model.parameters()).device
    frames, poses = to_float(sequence.frames)[None].to(device), to_float(sequence.poses)[None].to(device)
    T, (height, width) = frames.shape[1], frames.shape[-2:]
    generator = random_generator(device, seed)
    noise = torch.randn(num_samples, T - 1, *model.latent_shape(height, width), generator=generator, device=device)

    def score(predicted: Tensor) -> Tensor:
        return psnr(predicted, frames[:, 1:]).clamp(max=PERFECT).mean(dim=1)

    model.eval()
    with autocast(device, dtype):
        posterior = model.rollout(frames[:, 0], poses, truth=frames, posterior_clips=1)
        prior = score(model.rollout(frames[:, 0], poses).frames).item()
        many = [x.expand(num_samples, *x.shape[1:]) for x in (frames[:, 0], poses)]
        samples = model.rollout(*many, noise=noise).frames
    kl = posterior.kl[0].mean(dim=0)  # (*latent) nats
    posterior_psnr = score(posterior.frames).item()
    return {
        "kl": kl.sum().item(), "kl_per_dimension": kl.flatten(1).sum(dim=1).tolist(),
        "active": int((kl > ACTIVE).sum()), "units": kl.numel(),
        "psnr_prior": prior, "psnr_posterior": posterior_psnr, "gain": posterior_psnr - prior,
        "psnr_sample": score(samples).mean().item(), "psnr_best_sample": score(samples).max().item(),
        "diversity": diversity(samples),
    }
