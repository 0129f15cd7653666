"""The study of KL annealing: what a strategy's latent carries, and its table over seeds. Numbers in, text out."""

import csv
import io
from pathlib import Path

import numpy as np
import torch

from dataloader import Sequence
from modules.metrics import psnr
from modules.pixels import to_float
from modules.runs import Run
from modules.runtime import autocast
from modules.vae import VAE_Model

STRATEGIES = ("Cyclical", "Monotonic", "None")
REPORT = {"Cyclical": 21.535, "Monotonic": 21.488, "None": 22.648}  # dB, the report's averages over its test sequences
ACTIVE = 0.01  # nats: a unit of the latent that carries less on average is not in use


@torch.no_grad()
def latent_use(model: VAE_Model, sequence: Sequence, dtype: torch.dtype) -> dict:
    """What the latent of a model carries on one sequence, from its first frame, z the mean of either distribution.

    kl_per_dimension: nats a frame of each of the latent's channels. active: units (channel, row, column) whose KL is
    above ACTIVE on average; the share of collapsed units is what is left (compare Burda et al. 2016, section 5.2).
    gain: dB of mean PSNR that z from the posterior, which sees the true frame, has over z from the prior.
    """
    device = next(model.parameters()).device
    frames, poses = to_float(sequence.frames)[None].to(device), to_float(sequence.poses)[None].to(device)
    model.eval()
    with autocast(device, dtype):
        posterior = model.rollout(frames[:, 0], poses, truth=frames, posterior_clips=1)
        prior = model.rollout(frames[:, 0], poses)
    kl = posterior.kl[0].mean(dim=0)  # (*latent) nats
    scores = [float(psnr(out.frames[0], frames[0, 1:]).mean()) for out in (posterior, prior)]
    return {
        "kl_per_dimension": kl.flatten(1).sum(dim=1).tolist(), "active": int((kl > ACTIVE).sum()),
        "units": kl.numel(), "psnr_posterior": scores[0], "psnr_prior": scores[1], "gain": scores[0] - scores[1],
    }  # fmt: skip


def mean_and_deviation(values: list[float], digits: int = 2) -> str:
    """"mean ± sample standard deviation"; the value alone where there is only one."""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def study_table(scores: dict[str, list[dict[str, float]]]) -> list[list[str]]:
    """Header and a row per strategy. scores: strategy -> per seed {sequence: mean PSNR in dB}, all of one protocol."""
    sequences = list(next(iter(scores.values()))[0])
    rows = [["strategy", *(f"sequence {name}" for name in sequences), "average", "seeds", "the report's average"]]
    for strategy, seeds in scores.items():
        cells = [mean_and_deviation([seed[name] for seed in seeds]) for name in sequences]
        average = mean_and_deviation([float(np.mean(list(seed.values()))) for seed in seeds])
        rows.append([strategy, *cells, average, str(len(seeds)), f"{REPORT[strategy]:.3f}"])
    return rows


def latent_table(uses: dict[str, list[dict]]) -> list[list[str]]:
    """Header and a row per strategy. uses: strategy -> `latent_use` of each seed."""
    rows = [["strategy", "KL (nats a frame)", "active units", "of", "gain of posterior z (dB)", "KL per dimension"]]
    for strategy, seeds in uses.items():
        per_dimension = np.mean([use["kl_per_dimension"] for use in seeds], axis=0)
        rows.append([
            strategy, mean_and_deviation([sum(use["kl_per_dimension"]) for use in seeds], 3),
            mean_and_deviation([use["active"] for use in seeds], 0), str(seeds[0]["units"]),
            mean_and_deviation([use["gain"] for use in seeds]), " ".join(f"{value:.3g}" for value in per_dimension),
        ])  # fmt: skip
    return rows


def to_markdown(rows: list[list[str]]) -> str:
    """A Markdown table of a header and rows."""
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body]) + "\n"


def to_csv(rows: list[list[str]]) -> str:
    """The same as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def mean_run(name: str, runs: list[Run]) -> Run:
    """Several seeds of one strategy as one run for the figures: its curves' means, the scores of all seeds."""
    epochs = min(len(run.history) for run in runs)
    history = []
    for rows in zip(*(run.history[:epochs] for run in runs), strict=True):
        known = {key: [row[key] for row in rows if row.get(key) is not None] for key in rows[0]}
        history.append({key: float(np.mean(values)) if values else None for key, values in known.items()})
    scores = {f"{i}/{key}": values for i, run in enumerate(runs) for key, values in run.scores.items()}
    title = name if len(runs) == 1 else f"{name}, {len(runs)} seeds"
    return Run(title, Path(), history, runs[0].settings, None, None, scores, runs[0].scored_on)
