"""What the latent z does: how much the posterior tells, how many units it uses, and what that is worth in PSNR."""

import torch
from torch import Tensor

from dataloader import Sequence
from modules.metrics import psnr
from modules.pixels import to_float
from modules.runtime import autocast, random_generator
from modules.vae import VAE_Model, over_time

ACTIVE_VARIANCE = 0.01


@torch.no_grad()
def latent_use(
    model: VAE_Model, sequence: Sequence, dtype: torch.dtype, seed: int = 0, num_samples: int = 3
) -> dict[str, float]:
    """Measures over one sequence with all its true frames, (T, 3, H, W), every rollout from its first frame:

    kl: KL(q || p) in nats per frame. active_units, units: units whose posterior mean has a variance over the frames
    above 0.01 (Burda, Grosse & Salakhutdinov 2016), and all of them.
    psnr_prior_mean, psnr_prior_sample (mean of the samples), psnr_best_sample, psnr_posterior: dB, by z's source.
    diversity: the samples' standard deviation per value, in levels of 255.
    """
    device = next(model.parameters()).device
    frames, poses = to_float(sequence.frames[None].to(device)), to_float(sequence.poses[None].to(device))
    T, (height, width) = frames.shape[1], frames.shape[-2:]
    generator = random_generator(device, seed)
    noise = torch.randn(num_samples, T - 1, *model.latent_shape(height, width), generator=generator, device=device)

    def score(predicted: Tensor) -> Tensor:
        return psnr(predicted, frames[:, 1:]).mean(dim=1)

    with autocast(device, dtype):
        mean = model.rollout(frames[:, 0], poses).frames
        many = [x.expand(num_samples, *x.shape[1:]) for x in (frames[:, 0], poses)]
        samples = model.rollout(*many, noise=noise).frames
        posterior = model.rollout(frames[:, 0], poses, truth=frames, noise=noise[:1], posterior_clips=1)
        features = over_time(model.frame_transformation, frames[:, 1:])
        mu = over_time(model.Gaussian_Predictor, features, over_time(model.label_transformation, poses[:, 1:]))[1]
    variance = mu[0].var(dim=0)  # (N, h, w) over the frames
    return {
        "kl": posterior.kl.flatten(2).sum(dim=2).mean().item(),
        "active_units": int((variance > ACTIVE_VARIANCE).sum()),
        "units": variance.numel(),
        "psnr_prior_mean": score(mean).item(),
        "psnr_prior_sample": score(samples).mean().item(),
        "psnr_best_sample": score(samples).max().item(),
        "psnr_posterior": score(posterior.frames).item(),
        "diversity": 255 * samples.std(dim=0).mean().item(),
    }
