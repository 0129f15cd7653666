"""The curves of a run, or of several in one figure, in one style. No other module draws curves.

A figure is one column of a paper wide. Each run has a colour and a dash pattern of its own, so that colour-blind
readers and grey prints tell the lines apart. Matplotlib is imported when the first figure is drawn, without pyplot, so
that no window opens and no backend of the environment is used.
"""

import io
import itertools
import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np

from modules.files import write_bytes
from modules.show.runs import Run, best_validation

# Okabe & Ito's colours: safe for colour-blind readers
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
COLUMN = 3.4  # inches: one column of a two-column page
STYLE = {"font.size": 8, "axes.titlesize": 8, "legend.fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7,
         "lines.linewidth": 1.2, "pdf.fonttype": 42, "svg.fonttype": "none"}
CJK_FONTS = ("Noto Sans CJK TC", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans TC", "PingFang TC", "Heiti TC",
             "Microsoft JhengHei", "Microsoft YaHei", "SimHei", "WenQuanYi Zen Hei", "Arial Unicode MS")
OF_A_RUN = {  # file in RUN/figures -> figure in FIGURES
    "loss_curve": "loss_log", "val_psnr": "val_psnr", "teacher_forcing_ratio": "tfr", "kl_beta": "beta",
    "posterior_share": "posterior_share",
}


@cache
def load_matplotlib() -> None:
    """Import matplotlib without the backend that a notebook sets, with a font for Chinese names where there is one."""
    os.environ.pop("MPLBACKEND", None)
    from matplotlib import font_manager, rcParams

    installed = set(font_manager.get_font_names())
    rcParams.update(STYLE)
    rcParams["font.family"] = ["DejaVu Sans", *(name for name in CJK_FONTS if name in installed)]


def draw_curves(runs: list[Run], folder: Path, kind: str = "png") -> list[Path]:
    """Write every figure that the runs have numbers for: <folder>/<name>.<kind>. Returns the paths."""
    paths = {name: folder / f"{name}.{kind}" for name in FIGURES}
    return [path for name, path in paths.items() if draw_figure(name, runs, path)]


def draw_training(history: list[dict], folder: Path) -> None:
    """The figures over the epochs, under the names that the Trainer gives them. history: the rows of metrics.csv."""
    for file, name in OF_A_RUN.items():
        draw_figure(name, [Run("", folder, history)], folder / f"{file}.png")


def draw_scores(scores: dict[str, list[float]], path: Path, scored_on: str, train_vi_len: int | None = None) -> None:
    """PSNR per frame of one prediction. scores: sequence -> dB of frames 2, 3, …"""
    settings = {"train_vi_len": train_vi_len} if train_vi_len else {}
    draw_figure("psnr_per_frame", [Run("", path.parent, [], settings, scores=scores, scored_on=scored_on)], path)


def draw_figure(name: str, runs: list[Run], path: Path) -> bool:
    """Write one of FIGURES in the format of the path's suffix. Returns whether the runs have numbers for it."""
    figure = FIGURES[name](runs)
    if figure:
        save_figure(figure, path)
    return bool(figure)


def save_figure(figure, path: Path) -> None:
    """Write a figure in the format of the path's suffix."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], dpi=150, bbox_inches="tight")
    write_bytes(path, buffer.getvalue())


def styled(runs: list[Run]) -> list[tuple[Run, dict]]:
    """Each run with its colour and dashes; no two are alike up to 28."""
    return [(run, {"color": COLORS[i % len(COLORS)], "linestyle": DASHES[i % len(DASHES)]})
            for i, run in enumerate(runs)]


def plain(name: str) -> str:
    """A name that matplotlib shows as it is: $ would begin a formula, and a legend leaves out what begins with _."""
    return (" " * name.startswith("_") + name).replace("$", r"\$")


def new_figure(height: float = 2.3, rows: int = 1, width: float = COLUMN):
    """A figure with `rows` axes under each other that share the epochs, which are whole numbers."""
    load_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, 1, squeeze=False, sharex=True)[:, 0]
    for axis in axes:
        axis.grid(alpha=0.3, linewidth=0.5)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[-1].set_xlabel("epoch")
    return figure, axes


def column(run: Run, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and values of one column of metrics.csv, empty cells left out."""
    pairs = [(row["epoch"], row[key]) for row in run.history if row.get(key) is not None]
    return np.array([epoch for epoch, _ in pairs]), np.array([value for _, value in pairs], dtype=float)


def plot_lines(axis, runs: list[Run], key: str, **options) -> None:
    """One column of metrics.csv of every run, with dots where there are few points."""
    for run, style in styled(runs):
        epochs, values = column(run, key)
        axis.plot(epochs, values, **({"marker": "."} if len(epochs) <= 20 else {}) | style | options)


def add_legend(figure, axis, runs: list[Run]) -> None:
    """The names of several runs above the axes, where they cover nothing."""
    if len(runs) > 1:
        handles = [axis.plot([], [], label=plain(run.name), **style)[0] for run, style in styled(runs)]
        figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)


def plot_losses(runs: list[Run], scale: str):
    """Total loss, mse and kl under each other. A logarithmic axis stays linear if a value is not above 0."""
    if not any(run.history for run in runs):
        return None
    figure, axes = new_figure(4.6, rows=3)
    for axis, key, label in zip(axes, ("loss", "mse", "kl"), ("total loss", "mse", "KL (nats a frame)"), strict=True):
        plot_lines(axis, runs, key)
        positive = all((column(run, key)[1] > 0).all() for run in runs)
        axis.set_ylabel(label if scale == "linear" or positive else f"{label} (linear)")
        if scale == "log" and positive:
            axis.set_yscale("log")
    axes[0].set_title(f"Training loss, mean over the epoch ({scale} axis)")
    add_legend(figure, axes[0], runs)
    return figure


def plot_column(runs: list[Run], key: str, label: str, title: str):
    """One column of metrics.csv over the epochs, from 0. None if no run has it."""
    if not any(len(column(run, key)[0]) for run in runs):
        return None
    figure, (axis,) = new_figure()
    plot_lines(axis, runs, key)
    axis.set(ylabel=label, title=title)
    axis.set_ylim(bottom=0)
    add_legend(figure, axis, runs)
    return figure


def plot_tfr(runs: list[Run]):
    """Teacher forcing ratio, thick, with the loss, thin, on a second axis: does the loss jump where the ratio falls?"""
    if not any(run.history for run in runs):
        return None
    figure, (axis,) = new_figure()
    twin = axis.twinx()
    twin.spines["top"].set_visible(False)
    plot_lines(axis, runs, "tfr", drawstyle="steps-post", linewidth=2.2, alpha=0.55, marker="")
    plot_lines(twin, runs, "loss", linewidth=0.8)
    axis.set(ylabel="teacher forcing ratio (thick)", ylim=(-0.05, 1.05), title="Teacher forcing ratio and loss")
    twin.set_ylabel("loss (thin)")
    add_legend(figure, axis, runs)
    return figure


def plot_validation(runs: list[Run]):
    """Mean PSNR of the full-length validation, the best epoch of each run marked. None without a validation."""
    if not any(best_validation(run.history) for run in runs):
        return None
    figure, (axis,) = new_figure()
    plot_lines(axis, runs, "val_psnr")
    for run, style in styled(runs):
        if best := best_validation(run.history):
            axis.plot(*best, "o", color=style["color"], markersize=5)
            if len(runs) == 1:
                axis.annotate(f"{best[1]:.2f}", best, xytext=(0, 4), textcoords="offset points", ha="center",
                              fontsize=7, color=style["color"])
    axis.margins(x=0.08, y=0.15)
    axis.set(ylabel="PSNR (dB)", title="Validation: mean PSNR of a full-length prediction")
    add_legend(figure, axis, runs)
    return figure


def plot_frames(runs: list[Run]):
    """PSNR per frame: median over the sequences, a band from the lowest to the highest, the training clip's length."""
    scored = [(run, style) for run, style in styled(runs) if run.scores]
    if not scored:
        return None
    figure, (axis,) = new_figure(2.5)
    for run, style in scored:
        columns = itertools.zip_longest(*run.scores.values())  # None after a sequence's end, which becomes nan
        table = np.array(list(columns), dtype=float).T
        frames = np.arange(2, table.shape[1] + 2)
        axis.plot(frames, np.nanmedian(table, axis=0), **style, linewidth=0.9)
        axis.fill_between(frames, np.nanmin(table, axis=0), np.nanmax(table, axis=0), color=style["color"], alpha=0.18,
                          linewidth=0)
    for length in {run.settings["train_vi_len"] for run, _ in scored if "train_vi_len" in run.settings}:
        axis.axvline(length, color="0.4", linestyle=":", linewidth=1)
        axis.annotate(f" trained on clips of {length}", (length, 0.02), fontsize=7,
                      xycoords=("data", "axes fraction"), color="0.3")
    kinds = sorted({f"{run.scored_on}: {len(run.scores)}" for run, _ in scored})
    title = f"PSNR per frame, median and range ({', '.join(kinds)})"
    if len(runs) == 1 and len(runs[0].scores) == 1:
        title = f"PSNR per frame, {runs[0].scored_on} {plain(*runs[0].scores)}: mean {np.nanmean(table):.2f} dB"
    axis.set(xlabel="frame", ylabel="PSNR (dB)", title=title)
    add_legend(figure, axis, runs)
    return figure


def plot_analysis(
    name: str, columns: dict[str, np.ndarray], psnr: dict[str, str], causes: dict[str, str], stretches: list[slice]
):
    """PSNR of frames 2, 3, … of one sequence in several lines, and under it what may explain it, a row each. The
    stretches are shaded and numbered. psnr, causes: the columns to draw and their labels."""
    figure, axes = new_figure(1.8 + 0.95 * len(causes), rows=1 + len(causes), width=2 * COLUMN)
    first = columns[next(iter(psnr))]
    frames = np.arange(2, len(first) + 2)
    for i, (key, label) in enumerate(psnr.items()):
        axes[0].plot(frames, columns[key], color=COLORS[i], linewidth=1.3 - 0.3 * i, label=label, zorder=3 - i)
    for axis, (key, label) in zip(axes[1:], causes.items(), strict=True):
        axis.plot(frames, columns[key], color="0.2", linewidth=0.9)
        axis.set_title(label, loc="left")
    for number, stretch in enumerate(stretches, start=1):
        for axis in axes:
            axis.axvspan(*frames[[stretch.start, stretch.stop - 1]], color=COLORS[5], alpha=0.25, linewidth=0)
        axes[0].annotate(number, (frames[stretch].mean(), 0.02), xycoords=("data", "axes fraction"), ha="center")
    axes[0].set(title=f"PSNR per frame, sequence {plain(name)}: mean {first.mean():.2f} dB", ylabel="PSNR (dB)")
    axes[-1].set_xlabel("frame")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(psnr), frameon=False)
    return figure


FIGURES: dict[str, Callable] = {  # name -> function of the runs: a figure, or None without numbers for it
    "loss_linear": partial(plot_losses, scale="linear"),
    "loss_log": partial(plot_losses, scale="log"),
    "beta": partial(plot_column, key="beta", label="beta", title="Weight of the KL term"),
    "tfr": plot_tfr,
    "posterior_share": partial(plot_column, key="posterior_share", label="share", title="Clips with the posterior's z"),
    "lr": partial(plot_column, key="lr", label="learning rate", title="Learning rate at the end of the epoch"),
    "val_psnr": plot_validation,
    "psnr_per_frame": plot_frames,
}
