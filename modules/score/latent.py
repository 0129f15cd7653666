"""What the latent z does: how much the posterior tells, how many units it uses, what that is worth in PSNR, and how
much of what it tells stays from frame to frame."""

import torch
from torch import Tensor

from dataloader import Sequence
from modules.data.pixels import to_float
from modules.device import autocast
from modules.model.vae import Noise, VAE_Model
from modules.score.metrics import PERFECT, change, diversity, psnr
from modules.score.predict import draw_noise

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
    psnr_sample, psnr_best_sample: z drawn from the prior, mean and best of num_samples. diversity, change: see
    metrics.COLUMNS; the latter of the true frames, of both means and of the samples.
    """
    device = next(model.parameters()).device
    frames, poses = to_float(sequence.frames)[None].to(device), to_float(sequence.poses)[None].to(device)
    noise = torch.stack([draw_noise(model, sequence, (seed, sample)) for sample in range(num_samples)])

    def score(predicted: Tensor) -> Tensor:
        return psnr(predicted, frames[:, 1:]).clamp(max=PERFECT).mean(dim=1)

    model.eval()
    with autocast(device, dtype):
        posterior = model.rollout(frames[:, 0], poses, truth=frames, posterior_clips=1)
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
        "diversity": diversity(samples), "change_truth": change(frames[:, 1:]), "change_prior": change(prior),
        "change_posterior": change(posterior.frames), "change_sample": change(samples),
    }


@torch.no_grad()
def measure_noise(model: VAE_Model, sequence: Sequence, dtype: torch.dtype) -> Noise:
    """How the latent's noise goes on from frame to frame where the true frames are known.

    z is drawn from the prior as mu_p + sigma_p n with n of N(0, I). What the posterior says of n has the mean
    e = (mu_q - mu_p) / sigma_p and the variance v = (sigma_q / sigma_p)^2. The mean's share of a unit's noise is
    E[e^2] / (E[e^2] + E[v]) over the frames; rho is the means' correlation from one frame to the next, over all units.
    """
    means, device = [], next(model.parameters()).device
    frames, poses = to_float(sequence.frames)[None].to(device), to_float(sequence.poses)[None].to(device)

    def step(first, first_features, last_frame, pose, noise, posterior, state, z_from):
        """VAE_Model.step, which also keeps e and v."""
        mu_p, logvar_p, _ = model.prior_step(model.frame_transformation(last_frame), pose, state)
        mu, logvar = posterior
        if mu_p is None:  # N(0, I)
            mu_p, logvar_p = torch.zeros_like(mu), torch.zeros_like(mu)
        means.append(((mu - mu_p) * torch.exp(-0.5 * logvar_p), torch.exp(logvar - logvar_p)))
        return model.step(first, first_features, last_frame, pose, noise, posterior, state, z_from=z_from)

    model.eval()
    with autocast(device, dtype):
        model.rollout(frames[:, 0], poses, truth=frames, posterior_clips=1, step=step)
    e, v = (torch.cat(values).double() for values in zip(*means, strict=True))  # (T-1, *latent)
    told, untold = e.square().mean(dim=0), v.mean(dim=0)
    together = (e[1:] * e[:-1]).mean(dim=0).sum() / told.sum() if len(e) > 1 else torch.zeros(())
    rho = together.nan_to_num(0.0).clamp(0, 1)
    return Noise((told / (told + untold)).float().cpu(), float(rho))
