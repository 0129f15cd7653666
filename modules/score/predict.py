"""Predict whole sequences, for validation and testing."""

from collections.abc import Iterator

import torch
from torch import Tensor

from modules.data.pixels import to_float
from modules.data.sequence import Sequence
from modules.device import autocast, random_generator
from modules.model.vae import VAE_Model
from modules.progress import Progress

CHUNK = 32  # frames of all sequences together between two moves of the progress bar


@torch.no_grad()
def predict(
    model: VAE_Model, sequences: list[Sequence], dtype: torch.dtype = torch.float32, seed: int = 0, num_samples: int = 0
) -> list[Tensor]:
    """Generate every sequence from its first frame, all that have not ended yet in one batch.

    num_samples: 0 takes the mean of the prior; N draws N latents per frame, a function of (seed, sequence, sample).
    Returns per sequence (max(1, num_samples), T, 3, H, W) float32 in [0, 1] on the CPU, the given frame included.
    """
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    samples = []  # of each sample the frames of all sequences
    for sample in range(max(1, num_samples)):
        title = f"predict {len(sequences)}" + (f", sample {sample + 1}/{num_samples}" if num_samples else "")
        noise = [draw_noise(model, s, (seed, i, sample)) if num_samples else None for i, s in enumerate(sequences)]
        frames = [[to_float(sequence.frames[:1])] for sequence in sequences]
        steps = max(len(sequence.poses) for sequence in sequences) - 1
        with autocast(device, dtype), Progress(title, steps, "frame", leave=False) as bar:
            for chunk in generate(model, sequences, noise):
                for i, generated in chunk.items():
                    frames[i].append(generated.clamp(0, 1).cpu())
                bar.update(max(map(len, chunk.values())))
        samples.append([torch.cat(parts) for parts in frames])
    model.train(was_training)
    return [torch.stack(same_sequence) for same_sequence in zip(*samples, strict=True)]


def draw_noise(model: VAE_Model, sequence: Sequence, seed: tuple[int, ...]) -> Tensor:
    """The latent noise of a sequence's T-1 predicted frames, (T-1, *latent); other sequences do not change it."""
    device, (T, _, height, width) = next(model.parameters()).device, sequence.poses.shape
    shape = (T - 1, *model.latent_shape(height, width))
    return torch.randn(shape, generator=random_generator(device, *seed), device=device)


def generate(model: VAE_Model, sequences: list[Sequence], noise: list[Tensor | None]) -> Iterator[dict[int, Tensor]]:
    """The next few frames (t, 3, H, W) of every sequence that has not ended, by its place in `sequences`.

    The batch shrinks whenever a sequence ends, so that time and memory follow the sum of the lengths.
    noise: (T-1, *latent) per sequence, None for the mean of the prior.
    """
    device = next(model.parameters()).device
    places = sorted(range(len(sequences)), key=lambda i: -len(sequences[i].poses))  # the shortest sequence is last
    x_1 = torch.stack([to_float(sequences[i].frames[0]) for i in places]).to(device)
    last, begin = x_1[:, None].expand(-1, model.last_frames, -1, -1, -1), 1  # begin: frames that exist
    while places := [i for i in places if len(sequences[i].poses) > begin]:
        n = len(places)
        end = min(len(sequences[places[-1]].poses), begin + max(1, CHUNK // n))
        poses = torch.stack([sequences[i].poses[begin - 1 : end] for i in places]).to(device)
        z_noise = None if noise[0] is None else torch.stack([noise[i][begin - 1 : end - 1] for i in places])
        frames = model.rollout(x_1[:n], poses, last=last[:n], noise=z_noise).frames
        yield dict(zip(places, frames, strict=True))
        last, begin = torch.cat([last[:n], frames], dim=1)[:, -model.last_frames :], end
