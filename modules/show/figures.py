"""Matplotlib figures of a run. Every function takes arrays and a path; it knows nothing of models or data sets."""

import io
import os
from pathlib import Path

from modules.data.picture_cache import default_cache_dir
from modules.files import write_bytes

os.environ.setdefault("MPLCONFIGDIR", str(default_cache_dir() / "matplotlib"))  # its list of fonts
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

# Okabe & Ito's colours: safe for colour-blind readers
COLORS = BLUE, ORANGE, *_ = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def save_figure(figure, path: Path) -> None:
    """Write a figure in the format of the path's ending and close it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], dpi=150, bbox_inches="tight")
    plt.close(figure)
    write_bytes(path, buffer.getvalue())


def axes(x_label: str, y_label: str, title: str):
    """One empty pair of axes in the style of all figures."""
    figure, axis = plt.subplots(figsize=(6, 3.5))
    axis.set(xlabel=x_label, ylabel=y_label, title=title)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def draw_run(history: list[dict], folder: Path) -> None:
    """The curves over epochs. history: the rows of metrics.csv as numbers, in order; val_psnr may be None."""
    epochs = [row["epoch"] for row in history]
    marker = "." if len(epochs) < 50 else None

    figure, axis = axes("epoch", "loss", "Training loss")
    axis.plot(epochs, [row["loss"] for row in history], color=BLUE, marker=marker, label="loss (left)")
    twin = axis.twinx()
    twin.plot(epochs, [row["mse"] for row in history], color=ORANGE, marker=marker, label="mse (right, log)")
    twin.set(yscale="log", ylabel="mse")
    figure.legend(loc="upper right", bbox_to_anchor=(0.9, 0.88), frameon=False)
    save_figure(figure, folder / "loss_curve.png")

    figure, axis = axes("epoch", "PSNR (dB)", "Validation: mean PSNR of a full-length prediction")
    scored = [row for row in history if row["val_psnr"] is not None]
    if scored:
        best = max(scored, key=lambda row: row["val_psnr"])
        label = f"best {best['val_psnr']:.2f} dB, epoch {best['epoch']}"
        axis.plot([r["epoch"] for r in scored], [r["val_psnr"] for r in scored], color=BLUE, marker=marker, label=label)
        axis.plot(best["epoch"], best["val_psnr"], "o", color=ORANGE)
        axis.legend(frameon=False)
    save_figure(figure, folder / "val_psnr.png")

    for key, name, y_label, title in (
        ("tfr", "teacher_forcing_ratio.png", "ratio", "Teacher forcing ratio"),
        ("beta", "kl_beta.png", "beta", "Weight of the KL term"),
    ):
        figure, axis = axes("epoch", y_label, title)
        axis.plot(epochs, [row[key] for row in history], color=BLUE, marker=marker)
        axis.set_ylim(-0.05, max(1.0, *(row[key] for row in history)) + 0.05)
        save_figure(figure, folder / name)


def draw_psnr_per_frame(scores: dict[str, np.ndarray], path: Path, train_vi_len: int | None = None) -> None:
    """PSNR over the frame number, one line per sequence, the averages in the legend.

    scores: name -> PSNR in dB of frames 2, 3, … train_vi_len: the clip length of training, marked if given.
    """
    figure, axis = axes("frame", "PSNR (dB)", "PSNR per predicted frame")
    for (name, values), color in zip(scores.items(), np.resize(COLORS, len(scores)), strict=True):
        values = np.asarray(values, dtype=float)
        label = f"{name}: average {values.mean():.2f} dB"
        axis.plot(np.arange(2, len(values) + 2), np.minimum(values, 100), color=color, linewidth=0.9, label=label)
    if train_vi_len:
        axis.axvline(train_vi_len, color="grey", linestyle=":", linewidth=1)
        axis.annotate(f"trained on {train_vi_len} frames", (train_vi_len, 1.0), xycoords=("data", "axes fraction"),
                      xytext=(3, -8), textcoords="offset points", fontsize=7, color="grey")
    axis.legend(frameon=False)
    save_figure(figure, path)


def draw_latent_use(rows: list[dict], path: Path) -> None:
    """Score against variety: what sampling z costs in PSNR, over how much the samples differ; one mark per run.

    rows: as modules.score.latent.latent_use gives them, with `run`, `prior` and `beta`.
    """
    figure, axis = axes("diversity of samples (standard deviation, levels of 255)", "PSNR (dB)", "Score and variety")
    for prior, color, marker, side in (("standard", BLUE, "o", 1), ("learned", ORANGE, "s", -1)):
        runs = sorted((row for row in rows if row["prior"] == prior), key=lambda row: row["diversity"])
        x = [row["diversity"] for row in runs]
        for key, style, label in (
            ("psnr_prior", ":", "prior's mean"), ("psnr_sample", "-", "mean sample"),
            ("psnr_best_sample", "--", "best sample"),
        ):
            if runs:
                axis.plot(x, [row[key] for row in runs], color=color, marker=marker, linestyle=style, markersize=4,
                          label=f"{prior} prior: {label}")
        for row in runs:
            note = f"beta {row['beta']:g}, {row['kl']:.0f} nats"
            axis.annotate(note, (row["diversity"], row["psnr_sample"]), fontsize=6, color=color,
                          xytext=(5 * side, 8 * side), textcoords="offset points", va="center",
                          ha="left" if side > 0 else "right",
                          bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5})
    axis.margins(x=0.22, y=0.1)
    axis.legend(frameon=False, fontsize=7)
    save_figure(figure, path)


def draw_benchmark(rows: list[dict], path: Path) -> None:
    """Bars, on a logarithmic axis: how many times faster than the reference each case trains and predicts."""
    figure, axis = axes("times the reference", "", "Speed against the reference of the same run")
    for offset, key, color, label in (
        (0.2, "train_ratio", BLUE, "training"), (-0.2, "predict_6_ratio", ORANGE, "prediction, six sequences"),
    ):
        places = [i + offset for i in range(len(rows))]
        bars = axis.barh(places, [row[key] for row in rows], 0.38, color=color, label=label)
        axis.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
    axis.set(xscale="log", yticks=range(len(rows)), yticklabels=[row["name"] for row in rows])
    axis.set_xlim(right=1.3 * axis.get_xlim()[1])  # room for the last number
    axis.invert_yaxis()
    axis.legend(frameon=False, loc="upper right")
    save_figure(figure, path)


def draw_drift(values: np.ndarray, block: int, strip: np.ndarray, numbers: np.ndarray, path: Path) -> None:
    """A long rollout: PSNR (dB) over the frames with its mean per block, above moments of truth and prediction.

    values: PSNR of frames 2, 3, …; strip: the moments side by side, truth over prediction, (2 H, n W, 3) uint8;
    numbers: the frame numbers of the n moments.
    """
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 4.5), height_ratios=(2, 1.2), layout="constrained")
    above.plot(np.arange(2, len(values) + 2), values, color=BLUE, linewidth=0.4, alpha=0.6, label="frame")
    starts = np.arange(0, len(values), block)
    means = [values[start : start + block].mean() for start in starts]
    edges = [*(starts + 2), len(values) + 2]
    above.step(edges, [*means, means[-1]], where="post", color=ORANGE, label=f"mean of {block}")
    above.set(xlabel="frame", ylabel="PSNR (dB)", xlim=(0, len(values) + 2))
    above.legend(frameon=False, ncols=2)
    below.imshow(strip, interpolation="nearest", aspect="equal")
    width = strip.shape[1] / len(numbers)
    below.set_xticks([(i + 0.5) * width for i in range(len(numbers))], [f"frame {n}" for n in numbers])
    below.set_yticks([strip.shape[0] * 0.25, strip.shape[0] * 0.75], ["truth", "prediction"])
    below.tick_params(length=0)
    below.spines[:].set_visible(False)
    save_figure(figure, path)
