"""The curves that a report needs, of one run or of several over each other. Arrays and runs in, files out.

One column of a paper wide. Each run has a colour of Okabe and Ito's palette and a dash pattern of its own, so that
the lines are told apart by colour-blind readers and in grey.
"""

from pathlib import Path

import numpy as np
from matplotlib.ticker import NullFormatter

from modules.show.figures import COLORS, plt, save_figure
from modules.show.runs import Run, best_validation

COLUMN = 3.4  # inches: one column of a two-column page
FONT = {"font.size": 8, "axes.titlesize": 8, "legend.fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7,
        "lines.linewidth": 1.2, "pdf.fonttype": 42, "svg.fonttype": "none"}
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
SHOWN_MOST = 60.0  # dB: a perfect frame has infinitely many


def draw_curves(runs: list[Run], folder: Path, kind: str = "png") -> list[Path]:
    """Write every figure that the runs have the numbers for: <folder>/<name>.<kind>. Returns the paths."""
    drawn = []
    with plt.rc_context(FONT):
        for name, draw in (
            ("loss_linear", lambda: draw_losses(runs, "linear")),
            ("loss_log", lambda: draw_losses(runs, "log")),
            ("beta", lambda: draw_column(runs, "beta", "beta", "Weight of the KL term")),
            ("tfr", lambda: draw_tfr(runs)),
            ("lr", lambda: draw_column(runs, "lr", "learning rate", "Learning rate at the end of the epoch")),
            ("val_psnr", lambda: draw_validation(runs)),
            ("psnr_per_frame", lambda: draw_frames(runs)),
        ):
            figure = draw()
            if figure is not None:
                drawn.append(folder / f"{name}.{kind}")
                save_figure(figure, drawn[-1])
    return drawn


def styles(count: int) -> list[dict]:
    """Colour and dashes of each of `count` runs; no two alike up to 28."""
    return [{"color": COLORS[i % len(COLORS)], "linestyle": DASHES[(i % len(COLORS) + i // len(COLORS)) % len(DASHES)]}
            for i in range(count)]


def empty(height: float = 2.3, rows: int = 1):
    """A figure one column wide with `rows` axes under each other that share the epochs."""
    figure, axes = plt.subplots(rows, 1, figsize=(COLUMN, height), sharex=True, layout="constrained", squeeze=False)
    for axis in axes[:, 0]:
        axis.grid(alpha=0.3, linewidth=0.5)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure, axes[:, 0]


def column(run: Run, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and values of one column of metrics.csv, empty cells left out."""
    pairs = [(row["epoch"], row[key]) for row in run.history if row[key] is not None]
    return np.array([epoch for epoch, _ in pairs]), np.array([value for _, value in pairs])


def markers(epochs: np.ndarray) -> str | None:
    """Dots where a line alone would be invisible or hide how few points it has."""
    return "." if len(epochs) <= 20 else None


def name_runs(figure, axis, runs: list[Run]) -> None:
    """The legend above the axes, where it covers nothing; a single run needs none."""
    if len(runs) > 1:
        handles = [axis.plot([], [], label=run.name, **style)[0]
                   for run, style in zip(runs, styles(len(runs)), strict=True)]
        columns = 3 if max(len(run.name) for run in runs) <= 12 else 2
        figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False)


def draw_losses(runs: list[Run], scale: str):
    """Total loss, mse and kl under each other. On logarithmic axes, what is negative stays linear."""
    figure, axes = empty(4.6, rows=3)
    for axis, key, label in zip(axes, ("loss", "mse", "kl"), ("total loss", "mse", "KL (nats a frame)"), strict=True):
        least = np.inf
        for run, style in zip(runs, styles(len(runs)), strict=True):
            epochs, values = column(run, key)
            axis.plot(epochs, values, marker=markers(epochs), **style)
            least = min(least, np.nanmin(values, initial=np.inf))
        axis.set_ylabel(label)
        if scale == "log" and least > 0:
            axis.set_yscale("log")
            if np.divide(*axis.get_ylim()[::-1]) > 10:
                axis.yaxis.set_minor_formatter(NullFormatter())
        elif scale == "log" and least < 0:
            axis.set_ylabel(f"{label} (linear)")
        elif scale == "log":
            axis.set_yscale("symlog", linthresh=1e-2 if key != "kl" else 1.0)
            axis.set_ylabel(f"{label} (symlog)")
    axes[0].set_title(f"Training loss, mean over the epoch ({scale} axis)")
    axes[-1].set_xlabel("epoch")
    name_runs(figure, axes[0], runs)
    return figure


def draw_column(runs: list[Run], key: str, label: str, title: str):
    """One column of metrics.csv over the epochs, from 0."""
    figure, (axis,) = empty()
    for run, style in zip(runs, styles(len(runs)), strict=True):
        epochs, values = column(run, key)
        axis.plot(epochs, values, marker=markers(epochs), **style)
    axis.set(xlabel="epoch", ylabel=label, title=title)
    axis.set_ylim(bottom=0)
    name_runs(figure, axis, runs)
    return figure


def draw_tfr(runs: list[Run]):
    """Teacher forcing ratio, thick, with the loss, thin, on a second axis: does the loss jump where the ratio falls?"""
    figure, (axis,) = empty()
    twin = axis.twinx()
    twin.spines["top"].set_visible(False)
    for run, style in zip(runs, styles(len(runs)), strict=True):
        epochs, values = column(run, "tfr")
        axis.plot(epochs, values, **style, drawstyle="steps-post", linewidth=2.2, alpha=0.55)
        epochs, values = column(run, "loss")
        twin.plot(epochs, values, marker=markers(epochs), **style, linewidth=0.8)
    axis.set(xlabel="epoch", ylabel="teacher forcing ratio (thick)", ylim=(-0.05, 1.05))
    twin.set_ylabel("loss (thin)")
    axis.set_title("Teacher forcing ratio and loss")
    name_runs(figure, axis, runs)
    return figure


def draw_validation(runs: list[Run]):
    """Mean PSNR of the full-length validation, the best epoch of each run marked. None where nothing was validated."""
    if not any(best_validation(run.history) for run in runs):
        return None
    figure, (axis,) = empty()
    for run, style in zip(runs, styles(len(runs)), strict=True):
        epochs, values = column(run, "val_psnr")
        axis.plot(epochs, values, marker=markers(epochs), **style)
        if best := best_validation(run.history):
            axis.plot(*best, "o", color=style["color"], markersize=5)
            if len(runs) == 1:
                axis.annotate(f"{best[1]:.2f}", best, xytext=(0, 4), textcoords="offset points", ha="center",
                              fontsize=7, color=style["color"])
    axis.margins(x=0.08, y=0.15)
    axis.set(xlabel="epoch", ylabel="PSNR (dB)", title="Validation: mean PSNR of a full-length prediction")
    name_runs(figure, axis, runs)
    return figure


def frame_table(scores: dict[str, list[float]]) -> np.ndarray:
    """PSNR of every sequence and frame: (sequences, longest), nan after a sequence's end, at most SHOWN_MOST."""
    table = np.full((len(scores), max(map(len, scores.values()))), np.nan)
    for row, values in zip(table, scores.values(), strict=True):
        row[: len(values)] = [np.nan if value is None else min(value, SHOWN_MOST) for value in values]
    return table


def draw_frames(runs: list[Run]):
    """PSNR per frame: median over the sequences, a band from the lowest to the highest, the training clip's length."""
    if not any(run.scores for run in runs):
        return None
    figure, (axis,) = empty(2.5)
    lengths = set()
    for run, style in zip(runs, styles(len(runs)), strict=True):
        if not run.scores:
            continue
        table = frame_table(run.scores)
        frames = np.arange(2, table.shape[1] + 2)
        axis.plot(frames, np.nanmedian(table, axis=0), **style, linewidth=0.9)
        axis.fill_between(frames, np.nanmin(table, axis=0), np.nanmax(table, axis=0), color=style["color"], alpha=0.18,
                          linewidth=0)
        lengths.add(run.settings.get("train_vi_len"))
    lengths = sorted(lengths - {None})
    for length in lengths:
        axis.axvline(length, color="0.4", linestyle=":", linewidth=1)
    if lengths:
        axis.annotate(f" trained on clips of {', '.join(map(str, lengths))}", (lengths[-1], 0.02), fontsize=7,
                      xycoords=("data", "axes fraction"), color="0.3")
    kinds = sorted({f"{run.scored_on}: {len(run.scores)}" for run in runs if run.scores})
    axis.set(xlabel="frame", ylabel="PSNR (dB)")
    axis.set_title(f"PSNR per frame, median and range ({', '.join(kinds)})")
    name_runs(figure, axis, runs)
    return figure


def draw_schedules(rows: list[dict[str, float]], folder: Path) -> None:
    """beta.png, tfr.png and lr.png of a run that has not started. rows: a dict per epoch with beta, tfr and lr."""
    plan = Run("plan", folder, rows, {}, None, None, {}, "")
    with plt.rc_context(FONT):
        for key, label, title in (
            ("beta", "beta", "Weight of the KL term"),
            ("tfr", "ratio", "Teacher forcing ratio"),
            ("lr", "learning rate", "Learning rate at the end of the epoch"),
        ):
            save_figure(draw_column([plan], key, label, title), folder / f"{key}.png")
