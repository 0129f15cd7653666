"""Say what the latent of trained models does on the validation sequence, in one table and one figure.

    python scripts/latent.py --DR DR --out docs/latent runs/a/best.ckpt runs/b/best.ckpt …

Writes OUT.csv, OUT.md and OUT.png: what samples of the prior cost in PSNR against how much they differ.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from dataloader import Dataset_Dance
from modules.device import pick_device, pick_precision
from modules.files import to_csv, to_markdown, write_text
from modules.model.checkpoint import load_checkpoint, model_from_checkpoint
from modules.runtime import run_program
from modules.score.latent import latent_use
from modules.show.curves import COLORS, new_figure, save_figure

BLUE, ORANGE, GREEN, *_ = COLORS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", help="best.ckpt of one or several runs")
    parser.add_argument("--DR", required=True, help="data set")
    parser.add_argument("--out", required=True, help="path of the table and the figure, without ending")
    parser.add_argument("--num_samples", type=int, default=5, help="samples of the prior per sequence")
    args = parser.parse_args()
    device, rows = pick_device(None), []
    for path in args.checkpoints:
        model, (height, width) = model_from_checkpoint(load_checkpoint(path), path)
        sequence = Dataset_Dance(args.DR, "val", height, width).sequences[0]
        use = latent_use(
            model.to(device).eval(), sequence, pick_precision("auto", device), num_samples=args.num_samples
        )
        rows.append({"run": Path(path).resolve().parent.name}
                    | {key: value for key, value in use.items() if key != "kl_per_dimension"})
        print(", ".join(f"{key} {cell(value)}" for key, value in rows[-1].items()))
    table = [list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]
    for ending, text in (("md", to_markdown(table)), ("csv", to_csv(table))):
        write_text(Path(f"{args.out}.{ending}"), text)
    draw_latent_use(rows, Path(f"{args.out}.png"))


def draw_latent_use(rows: list[dict], path: Path) -> None:
    """Score against variety: what sampling z costs in PSNR, over how much the samples differ.

    Four marks on a line for every run, named. rows: as latent_use gives them, with `run`.
    """
    figure, (axis,) = new_figure(size=(6, 3.5))
    axis.set(xlabel="diversity of samples (standard deviation, levels of 255)", ylabel="PSNR (dB)")
    axis.set_title("Score and variety")
    keys = ("psnr_posterior", "psnr_prior", "psnr_best_sample", "psnr_sample")
    x, low, high = ([pick(row) for row in rows] for pick in (
        lambda row: row["diversity"], lambda row: min(map(row.get, keys)), lambda row: max(map(row.get, keys))))
    axis.vlines(x, low, high, color="0.8", linewidth=1, zorder=1)
    for key, color, marker, label in (
        ("psnr_posterior", GREEN, "^", "posterior's mean"), ("psnr_prior", BLUE, "o", "prior's mean"),
        ("psnr_best_sample", ORANGE, "x", "best sample"), ("psnr_sample", ORANGE, "s", "mean sample"),
    ):
        axis.plot(x, [row[key] for row in rows], marker, color=color, markersize=4, label=label)
    for row, *place in zip(rows, x, low, strict=True):
        axis.annotate(f"{row['run']}\n{row['kl']:.0f} nats", place, fontsize=6, xytext=(0, -6),
                      textcoords="offset points", va="top", ha="center")
    axis.margins(x=0.15, y=0.2)
    axis.legend(frameon=False, fontsize=7)
    save_figure(figure, path)


def cell(value) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run_program(main)
