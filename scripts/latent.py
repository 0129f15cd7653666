"""Say what the latent of trained models does on the validation sequence, in one table and one figure.

    python scripts/latent.py --DR DR --out docs/latent runs/a/best.ckpt runs/b/best.ckpt …

Writes OUT.csv, OUT.md and OUT.png: what samples of the prior cost in PSNR against how much they differ.
"""

import argparse
import csv
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from dataloader import Dataset_Dance  # noqa: E402
from modules.checkpoint import load_checkpoint, model_from_checkpoint, write_atomically  # noqa: E402
from modules.figures import draw_latent_use  # noqa: E402
from modules.latent import latent_use  # noqa: E402
from modules.runtime import pick_device, pick_precision, run_program  # noqa: E402


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
        rows.append(name | use)
        print(", ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()))
    write_tables(Path(args.out), rows)
    draw_latent_use(rows, Path(f"{args.out}.png"))


def write_tables(out: Path, rows: list[dict]) -> None:
    """The rows as CSV and as Markdown."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    for row in rows:
        cells = (f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    write_atomically(out.with_name(out.name + ".csv"), lambda file: file.write(text.getvalue().encode()))
    write_atomically(out.with_name(out.name + ".md"), lambda file: file.write(("\n".join(lines) + "\n").encode()))


if __name__ == "__main__":
    run_program(main)
