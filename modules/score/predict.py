"""Predict whole sequences: what validation and testing share."""

import torch
from torch import Tensor
from tqdm import tqdm

from dataloader import Sequence
from modules.data.pixels import to_float
from modules.device import autocast, random_generator
from modules.model.vae import VAE_Model


@torch.no_grad()
def predict(
    model: VAE_Model, sequences: list[Sequence], dtype: torch.dtype, seed: int = 0, num_samples: int = 0
) -> list[Tensor]:
    """Generate every sequence from its first frame, all in one batch, whatever their lengths.

    num_samples 0 takes the mean of the prior; N draws N latents per frame, a function of (seed, sequence, sample).
    Returns per sequence (max(1, num_samples), T, 3, H, W) float32 in [0, 1] on the CPU, the given first frame included.
    """
    device = next(model.parameters()).device
    T, samples = max(len(s.poses) for s in sequences), max(1, num_samples)
    height, width = sequences[0].poses.shape[-2:]
    first = torch.stack([s.frames[0] for s in sequences]).to(device)
    poses = torch.stack([pad_time(s.poses, T) for s in sequences]).to(device)
    was_training = model.training
    model.eval()
    predicted = []
    for sample in range(samples):
        noise = None
        if num_samples:
            shape = (T - 1, *model.latent_shape(height, width))
            draws = [random_generator(device, seed, i, sample) for i in range(len(sequences))]
            noise = torch.stack([torch.randn(shape, generator=g, device=device) for g in draws])
        title = f"predict {len(sequences)}" + (f", sample {sample + 1}/{samples}" if num_samples else "")
        with autocast(device, dtype), tqdm(total=T - 1, desc=title, unit="frame", leave=False) as bar:
            frames = model.rollout(first, poses, noise=noise, progress=bar.update).frames
        predicted.append(torch.cat([to_float(first)[:, None], frames.clamp(0, 1)], dim=1).cpu())
    model.train(was_training)
    stacked = torch.stack(predicted, dim=1)  # (B, samples, T, 3, H, W)
    return [stacked[i, :, : len(s.poses)] for i, s in enumerate(sequences)]


def pad_time(poses: Tensor, T: int) -> Tensor:
    """Repeat the last of poses (t, 3, H, W) up to T frames; what is generated from the padding is cut off again."""
    return torch.cat([poses, poses[-1:].expand(T - len(poses), -1, -1, -1)])
