"""What the latent z does: how much the posterior tells, how many units it uses, what that is worth in PSNR, and how
long what it tells stays the same."""

import torch
from torch import Tensor

from dataloader import Sequence
from modules.data.pixels import to_float
from modules.device import autocast, random_generator
from modules.model.vae import VAE_Model
from modules.score.metrics import PERFECT, diversity, psnr

MEMORY_MAX = 0.99  # a latent that never changed would be drawn once for a whole film
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


@torch.no_grad()
def noise_memory(model: VAE_Model, sequences: list[Sequence], dtype: torch.dtype) -> float:
    """The correlation rho of the latent's noise from one frame to the next, 0 … MEMORY_MAX, from true frames.

    z = mu_p + sigma_p n is drawn from the prior with noise n of N(0, I). What the posterior q(z | x, c) says of n has
    the mean e = (mu_q - mu_p) / sigma_p and the variance v = (sigma_q / sigma_p)^2, so that of noise drawn from it in
    frames t and t+1 the covariance is e_t e_t+1 and the second moment e_t^2 + v_t: rho is the ratio of their sums over
    all units and frames. Noise that keeps N(0, I) in every frame and has this correlation is what `draw_noise` draws.
    """
    model.eval()
    device = next(model.parameters()).device
    covariance = moment = 0.0
    for sequence in sequences:
        frames, poses = to_float(sequence.frames)[None].to(device), to_float(sequence.poses)[None].to(device)
        means = []

        def step(first, first_features, last_frame, pose, noise, posterior, state, z_from, means=means):
            """VAE_Model.step, which also keeps e and v."""
            mu_p, logvar_p, _ = model.prior_step(model.frame_transformation(last_frame), pose, state)
            mu, logvar = posterior
            mu_p, logvar_p = (torch.zeros_like(mu), torch.zeros_like(mu)) if mu_p is None else (mu_p, logvar_p)
            means.append(((mu - mu_p) * torch.exp(-0.5 * logvar_p), torch.exp(logvar - logvar_p)))
            return model.step(first, first_features, last_frame, pose, noise, posterior, state, z_from=z_from)

        with autocast(device, dtype):
            model.rollout(frames[:, 0], poses, truth=frames, posterior_clips=1, step=step)
        e, v = (torch.stack(values).double() for values in zip(*means, strict=True))
        covariance += float((e[1:] * e[:-1]).sum())
        moment += float((e.square() + v).sum()) * (len(e) - 1) / len(e)
    return min(max(covariance / moment, 0.0), MEMORY_MAX) if moment else 0.0
