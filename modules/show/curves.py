"""The curves of a run, or of several over each other, in one style: the only room that draws them.

Of the Trainer's folder (draw_training), of scripts/plot.py and of the report page (draw_curves). One column of a paper
wide. Each run has a colour of Okabe and Ito's palette and a dash pattern of its own, so that the lines are told apart
by colour-blind readers and in grey. Matplotlib is imported when the first figure is drawn, and never its pyplot: no
window, no backend of the environment's choice.
"""

import atexit
import contextlib
import functools
import io
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from modules.files import write_bytes
from modules.show.runs import Run, best_validation

# Okabe & Ito's colours: safe for colour-blind readers
COLORS = BLUE, ORANGE, *_ = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
COLUMN = 3.4  # inches: one column of a two-column page
FONT = {"font.size": 8, "axes.titlesize": 8, "legend.fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7,
        "lines.linewidth": 1.2, "pdf.fonttype": 42, "svg.fonttype": "none"}
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
OF_A_RUN = {  # file in RUN/figures -> figure in FIGURES
    "loss_curve": "loss_log", "val_psnr": "val_psnr", "teacher_forcing_ratio": "tfr", "kl_beta": "beta",
    "posterior_share": "posterior_share", "psnr_per_frame": "psnr_per_frame",
}


def prepare_environment() -> None:
    """Before matplotlib is imported: a folder for its list of fonts that can be written; no backend of a notebook's."""
    os.environ.pop("MPLBACKEND", None)
    if "MPLCONFIGDIR" not in os.environ:
        from modules.data.image_cache import default_cache_dir

        folder = default_cache_dir() / "matplotlib"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            folder = Path(tempfile.mkdtemp(prefix="pose2video-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["MPLCONFIGDIR"] = str(folder)


def new_figure(rows: int = 1, size: tuple[float, float] = (COLUMN, 2.3), **options):
    """A figure of `rows` axes under each other, and the axes. size: inches; options: of Figure.subplots."""
    prepare_environment()
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams.update(FONT)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, 1, squeeze=False, **options)[:, 0]
    for axis in axes:
        axis.grid(alpha=0.3, linewidth=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure, path: Path) -> None:
    """Write a figure in the format of the path's ending."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], dpi=150, bbox_inches="tight")
    write_bytes(path, buffer.getvalue())


def draw_curves(runs: list[Run], folder: Path, kind: str = "png") -> list[Path]:
    """Write every figure that the runs have the numbers for: <folder>/<name>.<kind>. Returns the paths."""
    return [path for name in FIGURES if (path := draw_figure(name, runs, folder / f"{name}.{kind}"))]


def draw_training(history: list[dict], folder: Path) -> None:
    """The figures over the epochs, under the names that the Trainer gives them. history: the rows of metrics.csv."""
    run = Run("", folder, history, {}, None, None, {}, "")
    for file, name in OF_A_RUN.items():
        draw_figure(name, [run], folder / f"{file}.png")


def draw_scores(scores: dict[str, list[float]], path: Path, scored_on: str, train_vi_len: int | None = None) -> None:
    """PSNR per frame of one prediction. scores: sequence -> dB of frames 2, 3, …"""
    settings = {"train_vi_len": train_vi_len} if train_vi_len else {}
    draw_figure("psnr_per_frame", [Run("", path.parent, [], settings, None, None, scores, scored_on)], path)


def draw_figure(name: str, runs: list[Run], path: Path) -> Path | None:
    """One of FIGURES; None where the runs have no numbers for it."""
    figure = FIGURES[name](runs)
    if figure is None:
        return None
    save_figure(figure, path)
    return path


def styles(count: int) -> list[dict]:
    """Colour and dashes of each of `count` runs; no two alike up to 28."""
    return [{"color": COLORS[i % len(COLORS)], "linestyle": DASHES[(i % len(COLORS) + i // len(COLORS)) % len(DASHES)]}
            for i in range(count)]


def empty(height: float = 2.3, rows: int = 1):
    """A figure one column wide with `rows` axes under each other that share the epochs."""
    figure, axes = new_figure(rows, (COLUMN, height), sharex=True)
    for axis in axes:
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure, axes


def column(run: Run, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and values of one column of metrics.csv, empty cells left out."""
    pairs = [(row["epoch"], row[key]) for row in run.history if row.get(key) is not None]
    return np.array([epoch for epoch, _ in pairs]), np.array([value for _, value in pairs], dtype=float)


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


def plot_losses(runs: list[Run], scale: str):
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
                from matplotlib.ticker import NullFormatter

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


def plot_column(runs: list[Run], key: str, label: str, title: str):
    """One column of metrics.csv over the epochs, from 0. None where no run has it."""
    if not any(len(column(run, key)[0]) for run in runs):
        return None
    figure, (axis,) = empty()
    for run, style in zip(runs, styles(len(runs)), strict=True):
        epochs, values = column(run, key)
        axis.plot(epochs, values, marker=markers(epochs), **style)
    axis.set(xlabel="epoch", ylabel=label, title=title)
    axis.set_ylim(bottom=0)
    name_runs(figure, axis, runs)
    return figure


def plot_tfr(runs: list[Run]):
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


def plot_validation(runs: list[Run]):
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
    """PSNR of every sequence and frame: (sequences, longest), nan after a sequence's end."""
    table = np.full((len(scores), max(map(len, scores.values()))), np.nan)
    for row, values in zip(table, scores.values(), strict=True):
        row[: len(values)] = [np.nan if value is None else value for value in values]
    return table


def plot_frames(runs: list[Run]):
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
    title = f"PSNR per frame, median and range ({', '.join(kinds)})"
    if len(runs) == 1 and len(runs[0].scores) == 1:
        ((name, values),) = runs[0].scores.items()
        known = [value for value in values if value is not None]
        title = f"PSNR per frame, {runs[0].scored_on} {name}: mean {np.mean(known or [np.nan]):.2f} dB"
    axis.set_title(title)
    name_runs(figure, axis, runs)
    return figure


def draw_schedules(rows: list[dict[str, float]], folder: Path) -> list[str]:
    """The schedules of a run that has not started, a figure each. rows: a dict per epoch. Returns the files' names."""
    plan = Run("plan", folder, rows, {}, None, None, {}, "")
    for key, words in SCHEDULES.items():
        save_figure(plot_column([plan], key, *words), folder / f"{key}.png")
    return [f"{key}.png" for key in SCHEDULES]


SCHEDULES = {  # column of metrics.csv -> label and title of its figure
    "beta": ("beta", "Weight of the KL term"),
    "tfr": ("ratio", "Teacher forcing ratio"),
    "posterior_share": ("share", "Clips whose z is the posterior's"),
    "lr": ("learning rate", "Learning rate at the end of the epoch"),
}


FIGURES = {  # name -> function of the runs that returns a figure, or None without numbers for it
    "loss_linear": lambda runs: plot_losses(runs, "linear"),
    "loss_log": lambda runs: plot_losses(runs, "log"),
    **{key: functools.partial(plot_column, key=key, label=label, title=title)
       for key, (label, title) in SCHEDULES.items()},
    "tfr": plot_tfr,
    "val_psnr": plot_validation,
    "psnr_per_frame": plot_frames,
}
