"""Explain the PSNR per frame of a checkpoint: accumulated error, poses unlike the training's, missing limbs.

    python scripts/analyse.py --DR LAB4_Dataset --save_root runs/best/analysis --ckpt_path runs/best/best.ckpt
    python scripts/analyse.py --mode test --DR DATA --save_root analysis --ckpt_path template.ckpt

It writes curves, images and numbers of every sequence. What is measured: modules/score/analysis.py.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataloader import Dataset_Dance
from modules.data.truth import find_truth
from modules.device import pick_device, pick_precision
from modules.files import check_writable, write_json
from modules.options import parse_tester
from modules.runtime import InputError, run_program
from modules.score.analysis import CAUSES, ROLLOUTS, analyse, describe, worst_stretches
from modules.show.curves import plot_analysis, save_figure
from modules.show.panels import Panels
from modules.show.sequence import images_of, to_images, write_png
from Tester import load_models


def main() -> None:
    parser = argparse.ArgumentParser("analyse.py", description=__doc__.splitlines()[0], allow_abbrev=False,
                                     epilog="Other flags are those of Tester.py: --DR, --save_root, --ckpt_path, …")
    parser.add_argument("--mode", choices=("val", "test"), default="val", help="sequences to explain (default: val)")
    args, others = parser.parse_known_args()
    for row in write_analysis(parse_tester(others), args.mode):
        print(f"\nSequence {row['name']}", *row["text"], sep="\n")


def write_analysis(args: argparse.Namespace, mode: str, most: int | None = None) -> list[dict]:
    """Explain the first `most` sequences of a mode; returns what analysis.json holds. args: of parse_tester."""
    root, device = Path(args.save_root), pick_device(args.device)
    check_writable(root)
    models, size = load_models(args)
    model = models[args.ckpt_path[0]]
    options = {"val_vi_len": args.val_vi_len, "cache_dir": args.cache_dir, "workers": args.num_workers,
               "skip_bad": args.skip_bad}
    dtype, training = pick_precision(args.precision, device), Dataset_Dance(args.DR, "train", *size, 2, **options)
    sequences = Dataset_Dance(args.DR, mode, *size, **options).sequences
    if mode == "test":
        truth = find_truth(args.DR, args.gt, sequences, args.cache_dir, args.num_workers)
        sequences = [s._replace(frames=x) for s, x in zip(sequences, truth, strict=True) if x is not None]
    if not sequences:
        raise InputError(f"{args.DR}: no test sequence has true frames; expected some, or --mode val")
    model.to(device)
    rows = []
    for sequence in sequences[:most]:
        prediction, nearest, columns = analyse(model, sequence, training, dtype)
        psnr, stretches, name = columns["rollout"], worst_stretches(columns["rollout"]), sequence.name
        figure, images = plot_analysis(name, columns, ROLLOUTS, CAUSES, stretches), []
        for ending in ("png", "pdf"):
            save_figure(figure, root / f"{name}.{ending}")
        shown = images_of(sequence, prediction, sequence.frames, psnr.tolist())
        panels = Panels(shown._replace(nearest=to_images(training.poses[nearest])))
        for number, stretch in enumerate(stretches, start=1):
            images.append(f"{name}.worst{number}.png")
            write_png(root / images[-1], panels[stretch.start + 1 + int(psnr[stretch].argmin())])
        rows.append({"name": name, "text": describe(columns, stretches), "images": images,
                     "per_frame": {key: values.tolist() for key, values in columns.items()}})
    write_json(root / "analysis.json", rows)
    return rows


if __name__ == "__main__":
    run_program(main)
