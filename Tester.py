"""Predict every test sequence from its first frame and its poses, score it, and write what people look at.

python Tester.py --DR LAB4_Dataset --save_root runs/best/test --ckpt_path runs/best/best.ckpt
"""

import argparse
import os
import time
from pathlib import Path
from typing import NamedTuple

from modules.options import parse_tester
from modules.runtime import InputError, leave, run_program

FLAGS = run_program(parse_tester) if __name__ == "__main__" else None  # errors in flags need not wait for torch

import numpy as np
import torch
from torch import Tensor

from dataloader import Dataset_Dance
from modules.data.pixels import to_uint8
from modules.data.sequence import Sequence
from modules.data.truth import find_truth
from modules.device import pick_device, pick_precision
from modules.files import check_writable, write_json, write_text
from modules.model.checkpoint import check_frame_size, load_checkpoint, model_from_checkpoint
from modules.model.vae import VAE_Model
from modules.score.baselines import compare, score_table, training_set, warn_if_below_baselines
from modules.score.metrics import DEFINITIONS, psnr_kaggle, score
from modules.score.predict import predict
from modules.show.sequence import draw_test


class Result(NamedTuple):
    """One predicted sequence."""

    sequence: Sequence
    frames: Tensor  # (samples, T, 3, H, W), the given frame included
    truth: Tensor | None  # (T, 3, H, W)
    scores: Tensor | None  # (samples, T-1) dB


def main(args: argparse.Namespace | None = None) -> None:
    args = args or parse_tester()
    root = Path(args.save_root)
    if args.unused:
        print(f"Not used in prediction, the checkpoint decides: {' '.join(f'--{name}' for name in args.unused)}")
    check_writable(root)
    if args.gt and not os.path.exists(args.gt):
        raise InputError(f"--gt {args.gt}: not found; expected a folder of <i>/*.png or GT<i>.csv, or Kaggle's gt.csv")
    device = pick_device(args.device)
    dtype = pick_precision(args.precision, device)
    models, (height, width) = load_models(args)
    options = {"cache_dir": args.cache_dir, "workers": args.num_workers, "skip_bad": args.skip_bad}
    sequences = Dataset_Dance(args.DR, "test", height, width, **options).sequences
    truth = find_truth(args.DR, args.gt, sequences, args.cache_dir, args.num_workers)

    latent = f"{args.num_samples} samples of the prior" if args.num_samples else "the prior's mean"
    lengths = ", ".join(str(len(sequence.poses)) for sequence in sequences)
    print(f"Predicting {len(sequences)} sequences of {lengths} frames, z = {latent}.")
    begin = time.perf_counter()
    alone = {}  # each checkpoint's own predictions
    for path, model in models.items():
        model.to(device, memory_format=torch.channels_last)
        alone[path] = predict(model, sequences, dtype, args.seed, args.num_samples)
        if not all(torch.isfinite(frames).all() for frames in alone[path]):
            raise InputError(f"{path}: predicts values that are not finite; its weights cannot be used")
    predicted = [sum(frames) / len(frames) for frames in zip(*alone.values(), strict=True)]
    seconds = time.perf_counter() - begin
    print(f"{seconds:.1f} s, {seconds / len(sequences):.1f} s per sequence.")

    results = [
        Result(sequence, frames, true, None if true is None else score(frames, true))
        for sequence, frames, true in zip(sequences, predicted, truth, strict=True)
    ]
    report(root, args, results, seconds, alone)
    if args.submission:
        write_submission(root / "submission.csv", [frames[0] for frames in predicted])
    draw_test(root, results, args.pictures, args.make_gif)


def load_models(args: argparse.Namespace) -> tuple[dict[str, VAE_Model], tuple[int, int]]:
    """The model of every --ckpt_path and the frame size (H, W) that all of them predict."""
    models, size = {}, None
    for path in args.ckpt_path:
        models[path], own = model_from_checkpoint(load_checkpoint(path), path)
        wanted = (args.frame_H or own[0], args.frame_W or own[1])
        check_frame_size(models[path], wanted, path)
        if size not in (None, wanted):
            raise InputError(f"{path}: frames of {own[0]}x{own[1]}, but of {size[0]}x{size[1]} in {args.ckpt_path[0]}; "
                             "expected checkpoints of one size, or --frame_H and --frame_W")
        size = wanted
    return models, size


def report(
    root: Path, args: argparse.Namespace, results: list[Result], seconds: float, alone: dict[str, list[Tensor]]
) -> None:
    """Write metrics.json and print the course's result block. With samples, `psnr` is their mean.

    alone: checkpoint -> its own predictions, as in Result; of several, the results are their mean.
    """
    known, training = [i for i, result in enumerate(results) if result.scores is not None], None
    if known and not args.no_baselines:
        size = results[0].frames.shape[-2:]
        training = training_set(
            args.DR, *size, cache_dir=args.cache_dir, workers=args.num_workers, skip_bad=args.skip_bad
        )
    sequences, predicted, truth, _ = zip(*results, strict=True)
    compared = compare(sequences, predicted, truth, training, trivial=not args.no_baselines)
    rows = []
    for sequence, _, _, scores in results:
        row = {"name": sequence.name, "frames": len(sequence.poses), "psnr": None, "psnr_per_frame": None}
        if scores is not None:
            baselines = dict(compared[sequence.name])
            row |= baselines.pop("model") | {"psnr_per_frame": scores.mean(dim=0).tolist(), "baselines": baselines}
            if args.num_samples:
                row["psnr_best_sample"] = float(scores.mean(dim=1).max())
        rows.append(row)
    average = float(np.mean([rows[i]["psnr"] for i in known])) if known else None
    metrics = {
        "avg_psnr": average, "latent": f"{args.num_samples} samples" if args.num_samples else "prior mean",
        "seconds": seconds, "checkpoint": ", ".join(alone), "sequences": rows, "definitions": DEFINITIONS,
    }
    if known and len(alone) > 1:
        metrics["avg_psnr_alone"] = {
            path: float(np.mean([score(frames[i], truth[i]).mean() for i in known])) for path, frames in alone.items()
        }
    if known:
        metrics["psnr_kaggle"] = psnr_kaggle([predicted[i][0] for i in known], [truth[i] for i in known])
    write_json(root / "metrics.json", metrics)

    unscored = [s.name for s, t in zip(sequences, truth, strict=True) if t is None]
    if unscored:
        print(f"No true frames for sequence {', '.join(unscored)}: predicted, not scored (see --gt).")
    if known:
        print("============== Your Result ==============")
        for i in known:
            line = f"PSNR for testing sequence{sequences[i].name}: {rows[i]['psnr']:.3f}"
            if args.num_samples:
                line += f" (mean of {args.num_samples} samples; best {rows[i]['psnr_best_sample']:.3f})"
            print(line)
        print("-" * 41)
        print(f"                       AVG: {average:.3f}")
        for path, value in metrics.get("avg_psnr_alone", {}).items():
            print(f"{value:>33.3f} with {path} alone")
        print(score_table(compared))
        if not args.no_sanity:
            warn_if_below_baselines(compared)


def write_submission(path: Path, predicted: list[Tensor]) -> None:
    """The course's submission.csv: `id,0,…`, a row per frame, sequence-major, frame 0 included, C, H, W flattened."""

    lines = [",".join(["id", *map(str, range(predicted[0][0].numel()))])]
    for frames in predicted:
        for pixels in to_uint8(frames).flatten(1).tolist():
            lines.append(f"{len(lines) - 1},{','.join(map(str, pixels))}")
    write_text(path, "\n".join([*lines, ""]))
    print(f"Wrote {path}")


if __name__ == "__main__":
    run_program(main, FLAGS)
    leave()
