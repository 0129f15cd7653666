"""Predict every test sequence from its first frame and its poses, score it, and write its images and videos.

    python Tester.py --DR LAB4_Dataset --save_root runs/best/test --ckpt_path runs/best/best.ckpt
"""

import argparse
import os
import time
from pathlib import Path
from typing import NamedTuple

from modules.options import parse_tester
from modules.runtime import InputError, run_program, start

FLAGS = run_program(start, parse_tester, "Tester") if __name__ == "__main__" else None

import numpy as np
import torch
from torch import Tensor

from dataloader import Dataset_Dance
from modules.data.layout import frames_per_second, mode_folder
from modules.data.pixels import to_uint8
from modules.data.sequence import Sequence
from modules.data.truth import find_truth
from modules.device import pick_device, pick_precision
from modules.files import check_writable, write_json, write_text
from modules.model.checkpoint import check_frame_size, load_checkpoint, model_from_checkpoint
from modules.model.vae import VAE_Model
from modules.score.baselines import compare, score_table, warn_if_below_baselines
from modules.score.metrics import DEFINITIONS, psnr_kaggle, score
from modules.score.predict import predict
from modules.show.sequence import draw_test

COURSE_FORMS = [[(630, 3, 32, 64)] * count for count in (5, 6)]  # the shapes of the course's test sequences; 6 in 2023
WRITTEN = ("metrics.json", "submission.csv", "pred_seq*.gif", "seq*/pred_seq.*", "seq*/pose.gif", "seq*/panel.*",
           "seq*/ground_truth.gif", "seq*/psnr_per_frame.png", "seq*/frames.npz")


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
        raise InputError(f"--gt {args.gt}: not found; expected a folder of <i>/*.png or GT<i>.csv")
    rate = frames_per_second(args.DR, args.fps)
    device = pick_device(args.device)
    dtype = pick_precision(args.precision, device)
    models, (height, width) = load_models(args)
    options = {"cache_dir": args.cache_dir, "workers": args.num_workers, "skip_bad": args.skip_bad}
    sequences = Dataset_Dance(args.DR, "test", height, width, **options).sequences
    truth = find_truth(args.DR, args.gt, sequences, args.cache_dir, args.num_workers)
    training, folder = None, mode_folder(args.DR, "train") / "train_img"
    if not args.no_baselines and any(t is not None for t in truth) and folder.is_dir():
        training = Dataset_Dance(args.DR, "train", height, width, train_vi_len=1, **options)
        training.decode()  # a damaged image is known before anything is predicted

    latent = f"{args.num_samples} samples" if args.num_samples else "prior mean"
    print(f"Predicting {', '.join(str(len(sequence.poses)) for sequence in sequences)} frames, z: {latent}.")
    begin, each = time.perf_counter(), {}  # each checkpoint's own predictions
    for path, model in models.items():
        model.to(device, memory_format=torch.channels_last)
        each[path] = predict(model, sequences, dtype, args.seed, args.num_samples)
        if not all(torch.isfinite(frames).all() for frames in each[path]):
            raise InputError(f"{path}: predicts values that are not finite; its weights cannot be used")
    predicted = [sum(frames) / len(frames) for frames in zip(*each.values(), strict=True)]
    seconds = time.perf_counter() - begin
    print(f"{seconds:.1f} s, {seconds / len(sequences):.1f} s per sequence.")

    scores = [None if t is None else score(frames, t) for frames, t in zip(predicted, truth, strict=True)]
    results = [Result(*parts) for parts in zip(sequences, predicted, truth, scores, strict=True)]
    compared = compare(sequences, predicted, truth, training, trivial=not args.no_baselines)
    metrics = {"avg_psnr": None, "latent": latent, "seconds": seconds, "checkpoint": ", ".join(each)}
    metrics |= measure(results, compared, each, args.num_samples)
    for path in (path for pattern in WRITTEN for path in root.glob(pattern)):
        path.unlink()  # an earlier test may have had other sequences and flags
    write_json(root / "metrics.json", metrics)
    print_results(metrics, compared, sanity=not args.no_sanity)
    if args.submission or [tuple(sequence.poses.shape) for sequence in sequences] in COURSE_FORMS:
        write_submission(root / "submission.csv", [frames[0] for frames in predicted])
    draw_test(root, results, args.pictures, args.make_gif, rate)


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


def measure(results: list[Result], compared: dict[str, dict], each: dict[str, list[Tensor]], num_samples: int) -> dict:
    """The scores for metrics.json. With samples, a sequence's `psnr` is their mean.

    compared: of `compare`. each: checkpoint -> its own predictions; of several checkpoints, the results are the mean.
    """
    rows = []
    for sequence, _, _, scores in results:
        row = {"name": sequence.name, "frames": len(sequence.poses), "psnr": None, "psnr_per_frame": None}
        if scores is not None:
            baselines = dict(compared[sequence.name])
            row |= baselines.pop("model") | {"psnr_per_frame": scores.mean(dim=0).tolist(), "baselines": baselines}
            if num_samples:
                row["psnr_best_sample"] = float(scores.mean(dim=1).max())
        rows.append(row)
    metrics = {"sequences": rows, "definitions": DEFINITIONS}
    known = [i for i, result in enumerate(results) if result.truth is not None]
    if known:
        metrics["avg_psnr"] = float(np.mean([rows[i]["psnr"] for i in known]))
        metrics["psnr_kaggle"] = psnr_kaggle([r.frames[0] for r in results], [r.truth for r in results])
    if known and len(each) > 1:
        own = {path: [score(frames[i], results[i].truth).mean() for i in known] for path, frames in each.items()}
        metrics["avg_psnr_alone"] = {path: float(np.mean(values)) for path, values in own.items()}
    return metrics


def print_results(metrics: dict, compared: dict[str, dict], sanity: bool) -> None:
    """The course's result block and the table of all scores. sanity: warn of scores below a trivial baseline."""
    unscored = [row["name"] for row in metrics["sequences"] if row["psnr"] is None]
    if unscored:
        print(f"No true frames for sequence {', '.join(unscored)}: predicted, not scored (see --gt).")
    if compared:
        print(result_block(metrics), score_table(compared), sep="\n")
        if sanity:
            warn_if_below_baselines(compared)


def result_block(metrics: dict) -> str:
    """The scores as the course prints them. metrics: as metrics.json."""
    lines = ["============== Your Result =============="]
    for row in metrics["sequences"]:
        if row["psnr"] is not None:
            best = f" (mean of {metrics['latent']}; best {best:.3f})" if (best := row.get("psnr_best_sample")) else ""
            lines.append(f"PSNR for testing sequence{row['name']}: {row['psnr']:.3f}{best}")
    lines += ["-" * 41, f"                       AVG: {metrics['avg_psnr']:.3f}"]
    lines += [f"{value:>33.3f} with {path} alone" for path, value in metrics.get("avg_psnr_alone", {}).items()]
    return "\n".join(lines)


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
