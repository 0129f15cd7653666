"""The study of KL annealing: what a strategy's latent carries, and its table over seeds. Numbers in, text out."""

from pathlib import Path

import numpy as np

from modules.show.runs import Run

STRATEGIES = ("Cyclical", "Monotonic", "None")
REPORT = {"Cyclical": 21.535, "Monotonic": 21.488, "None": 22.648}  # dB, the report's averages over its test sequences


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
        ])
    return rows


def to_markdown(rows: list[list[str]]) -> str:
    """A Markdown table of a header and rows."""
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body]) + "\n"


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
