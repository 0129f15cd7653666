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
from modules.files import to_csv, write_text
from modules.model.checkpoint import load_checkpoint, model_from_checkpoint
from modules.runtime import run_program
from modules.score.latent import latent_use
from modules.show.figures import draw_latent_use
from modules.show.study import to_markdown


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


def cell(value) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run_program(main)
