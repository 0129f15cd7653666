"""The ribbon of `make_dataset.py --ribbon` in predicted videos: does it look and move like the true one?

The ribbon is the green of a frame, max(0, G - max(R, B) - GREY) of each pixel. `hair` (…, 2) is where it is tied to the
hair: pixels to the right and down. docs/ribbon.md explains the measures.
"""

import math

import torch
from torch import Tensor

from modules.data.pixels import to_float
from modules.data.sequence import Sequence
from modules.model.vae import VAE_Model
from modules.score.predict import predict

GREY, BLURRED, RADIUS = 0.08, 0.6, 9 / 32  # range 1; share of the true sharpness; image heights around the hair
SHORT, STRIDE, SAMPLES = 30, 45, 10  # frames of a short rollout, frames between the starts of two; samples of each
LAGS, HORIZONS = (1, 5, 20), (5, 10, 30)  # frames


def ribbon_use(model: VAE_Model, sequences: list[Sequence], tied: list, dtype: torch.dtype) -> dict[str, dict]:
    """The measures of "samples" of the prior and of the "truth". sequences: n, with all of their T > SHORT true frames.
    tied: the hair in each frame of the data, by its number, as shares of the width and the height.

    Those of `movement`, of rollouts from the first frame. spread: standard deviation of the angle over SAMPLES samples,
    SHORT frames after a true frame, in degrees. best_minus_mean_k: PSNR around the hair over k frames after a true
    frame, of the best sample minus that of the prior's mean, in dB (as in Denton & Fergus 2018).
    """
    truth = torch.stack([sequence.frames for sequence in sequences])  # (n, T, 3, H, W)
    hair = torch.tensor([[tied[number] for number in sequence.numbers] for sequence in sequences])  # (n, T, 2)
    hair = hair * torch.tensor([truth.shape[-1], truth.shape[-2]])
    samples = torch.cat(predict(model, sequences, dtype, num_samples=1))
    measures, of_truth = (movement(x[:, 1:], truth[:, 1:], hair[:, 1:]) for x in (samples, truth))

    spans = [(i, slice(t, t + SHORT + 1)) for i in range(len(truth)) for t in range(0, hair.shape[1] - SHORT, STRIDE)]
    short = [Sequence("", truth[i, span], sequences[i].poses[span]) for i, span in spans]
    truth, hair = (torch.stack([x[span] for span in spans])[:, 1:] for x in (truth, hair))
    mean, samples = (torch.stack(predict(model, short, dtype, 0, n), dim=1)[:, :, 1:] for n in (0, SAMPLES))
    measures["spread"] = math.degrees(look(samples, hair)[0][:, :, -1].std(dim=0).mean())
    for k in HORIZONS:
        measures[f"best_minus_mean_{k}"] = best_psnr(samples, truth, hair, k) - best_psnr(mean, truth, hair, k)
    return {"samples": measures, "truth": dict.fromkeys(measures) | of_truth}


def look(frames: Tensor, hair: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of frames (…, 3, H, W): the angle (…) in rad from the hair to the middle of the green, 0 upwards, positive to the
    right; the mass (…), the sum of the green; the sharpness (…), the mean of the green, weighted by itself."""
    red, green, blue = to_float(frames).clamp(0, 1).unbind(dim=-3)
    green = (green - torch.maximum(red, blue) - GREY).clamp(min=0)
    mass = green.sum(dim=(-2, -1)) + 1e-9
    H, W = green.shape[-2:]
    x = green.sum(dim=-2) @ (torch.arange(W) + 0.5) / mass
    y = green.sum(dim=-1) @ (torch.arange(H) + 0.5) / mass
    return torch.atan2(x - hair[..., 0], hair[..., 1] - y), mass, green.square().sum(dim=(-2, -1)) / mass


def movement(frames: Tensor, truth: Tensor, hair: Tensor) -> dict[str, float]:
    """Of videos (n, T, 3, H, W): the share of BLURRED frames; sharpness and mass, means of their ratios to the true
    frame's; of the angle std and root mean square change per frame in degrees, autocorrelation after k frames."""
    (angle, mass, sharpness), (_, true_mass, true_sharpness) = look(frames, hair), look(truth, hair)
    sharpness, change, angle = sharpness / true_sharpness, angle.diff(dim=1), angle - angle.mean()
    variance, lags = angle.square().mean(), {lag: (angle[:, lag:] * angle[:, :-lag]).mean() for lag in LAGS}
    return {
        "blurred": float((sharpness < BLURRED).float().mean()), "sharpness": float(sharpness.mean()),
        "mass": float((mass / true_mass).mean()), "std": math.degrees(variance.sqrt()),
        "change": math.degrees(change.square().mean().sqrt()),
    } | {f"autocorrelation_{lag}": float(product / variance) for lag, product in lags.items()}


def best_psnr(frames: Tensor, truth: Tensor, hair: Tensor, k: int) -> float:
    """PSNR in dB of the pixels within RADIUS of the hair, mean over the first k frames; of the best sample, mean over
    the videos. frames: (samples, n, T, 3, H, W). truth: (n, T, 3, H, W)."""
    H, W = truth.shape[-2:]
    right, down = torch.arange(W) + 0.5 - hair[:, :k, None, :1], torch.arange(H)[:, None] + 0.5 - hair[:, :k, None, 1:]
    inside = right**2 + down**2 < (RADIUS * H) ** 2
    error = (to_float(frames[:, :, :k]) - to_float(truth[:, :k])).square().mean(dim=-3) * inside
    psnr = -10 * torch.log10(error.sum(dim=(-2, -1)) / inside.sum(dim=(-2, -1)) + 1e-10)
    return float(psnr.mean(dim=-1).amax(dim=0).mean())
