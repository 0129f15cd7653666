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
from modules.show.curves import BLUE, ORANGE, new_figure, save_figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", help="best.ckpt of one or several runs")
    parser.add_argument("--DR", required=True, help="data set")
    parser.add_argument("--out", required=True, help="path of the table and the figure, without ending")
    parser.add_argument("--num_samples", type=int, default=5, help="samples of the prior per sequence")
    args = parser.parse_args()
    device, rows = pick_device(None), []
    for path in args.checkpoints:
        checkpoint = load_checkpoint(path)
        model, (height, width) = model_from_checkpoint(checkpoint, path)
        sequence = Dataset_Dance(args.DR, "val", height, width).sequences[0]
        use = latent_use(
            model.to(device).eval(), sequence, pick_precision("auto", device), num_samples=args.num_samples
        )
        settings = checkpoint.get("settings", {})
        name = {"run": Path(path).parent.name, "prior": model.config["prior"], "beta": settings.get("kl_beta")}
        rows.append(name | {key: value for key, value in use.items() if key != "kl_per_dimension"})
        print(", ".join(f"{key} {cell(value)}" for key, value in rows[-1].items()))
    table = [list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]
    for ending, text in (("md", to_markdown(table)), ("csv", to_csv(table))):
        write_text(Path(f"{args.out}.{ending}"), text)
    draw_latent_use(rows, Path(f"{args.out}.png"))


def draw_latent_use(rows: list[dict], path: Path) -> None:
    """Score against variety: what sampling z costs in PSNR, over how much the samples differ; one mark per run.

    rows: as latent_use gives them, with `run`, `prior` and `beta`.
    """
    figure, (axis,) = new_figure(size=(6, 3.5))
    axis.set(xlabel="diversity of samples (standard deviation, levels of 255)", ylabel="PSNR (dB)")
    axis.set_title("Score and variety")
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


def cell(value) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run_program(main)
