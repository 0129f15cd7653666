"""Predict whole sequences: what validation and testing share."""

from collections.abc import Callable

import torch
from torch import Tensor

from modules.data.pixels import to_float
from modules.data.sequence import Sequence
from modules.device import autocast, random_generator
from modules.model.vae import VAE_Model
from modules.progress import Progress

CHUNK = 32  # frames of all sequences between two calls of on_chunk


@torch.no_grad()
def predict(
    model: VAE_Model, sequences: list[Sequence], dtype: torch.dtype, seed: int = 0, num_samples: int = 0,
    on_chunk: Callable[[], object] | None = None,
) -> list[Tensor]:
    """Generate every sequence from its first frame, all that have not ended yet in one batch.

    num_samples 0 takes the mean of the prior; N draws N latents per frame, a function of (seed, sequence, sample).
    on_chunk: called after every few frames; what it raises ends the prediction. Returns per sequence
    (max(1, num_samples), T, 3, H, W) float32 in [0, 1] on the CPU, the given first frame included.
    """
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    predicted = [[] for _ in sequences]
    for sample in range(max(1, num_samples)):
        title = f"predict {len(sequences)}" + (f", sample {sample + 1}/{num_samples}" if num_samples else "")
        frames = max(len(s.poses) for s in sequences) - 1
        with autocast(device, dtype), Progress(title, frames, "frame", leave=False) as bar:
            noise = [draw_noise(model, s, (seed, i, sample)) if num_samples else None for i, s in enumerate(sequences)]

            def advance(count: int, bar: Progress = bar) -> None:
                bar.update(count)
                if on_chunk:
                    on_chunk()

            for films, film in zip(predicted, roll_out(model, sequences, noise, advance), strict=True):
                films.append(film)
    model.train(was_training)
    return [torch.stack(films) for films in predicted]


def draw_noise(model: VAE_Model, sequence: Sequence, seed: tuple[int, ...]) -> Tensor:
    """The latent's noise of every frame to predict, (T-1, *latent), whatever else is predicted beside it."""
    device, (T, _, height, width) = next(model.parameters()).device, sequence.poses.shape
    shape = (T - 1, *model.latent_shape(height, width))
    return torch.randn(shape, generator=random_generator(device, *seed), device=device)


def roll_out(
    model: VAE_Model, sequences: list[Sequence], noise: list[Tensor | None], progress: Callable[[int], object],
) -> list[Tensor]:
    """One film (T, 3, H, W) per sequence. The batch shrinks whenever sequences end: time and memory are those of the
    frames that there are. noise: (T-1, *latent) per sequence, None for the prior's mean."""
    device = next(model.parameters()).device
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i].poses))  # those that end first come last
    lengths = [len(sequences[i].poses) for i in order]
    first = torch.stack([sequences[i].frames[0] for i in order]).to(device)
    films = [[to_float(picture)[None].cpu()] for picture in first]
    last, begin = to_float(first), 1
    for end in sorted(set(lengths)):
        n = sum(length >= end for length in lengths)
        chunk = max(1, CHUNK // n)
        while begin < end:
            stop = min(begin + chunk, end)
            poses = torch.stack([sequences[i].poses[begin - 1 : stop] for i in order[:n]]).to(device)
            some = None if noise[0] is None else torch.stack([noise[i][begin - 1 : stop - 1] for i in order[:n]])
            out = model.rollout(first[:n], poses, last=last[:n], noise=some)
            last = out.frames[:, -1]
            for film, frames in zip(films, out.frames, strict=False):
                film.append(frames.clamp(0, 1).cpu())
            progress(stop - begin)
            begin = stop
    films = [torch.cat(parts) for parts in films]
    return [films[order.index(i)] for i in range(len(sequences))]
