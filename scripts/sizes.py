"""Measure what larger frames cost and score: train, test and draw the default model at several frame sizes.

    python scripts/sizes.py --DR DATA --out docs/images/sizes --keep runs/sizes
    python scripts/sizes.py --DR DATA --keep runs/sizes --sizes 64x128=16x250      (16 epochs of 250 steps)

DATA's pictures must be as large as the largest frames, e.g. make_dataset.py --height 128 --width 256; for smaller
frames they are resized. Every size has its own budget, which the table states. With --keep the same command again goes
on where it stopped, in the middle of a run too. Memory is that of Trainer.py's process, validation included.
"""

import argparse
import contextlib
import io
import re
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import numpy as np
from benchmark import gflop_per_frame
from benchmark_programs import launch
from PIL import Image

from modules.data.layout import training_images
from modules.device import pick_device, pick_precision
from modules.files import read_json, to_markdown, write_bytes, write_json, write_text
from modules.model.checkpoint import load_checkpoint, model_from_checkpoint
from modules.options import parse_trainer
from modules.runtime import InputError, run_program
from modules.show.panels import blank_line
from modules.show.panels import draw_label as write_words
from modules.show.runs import read_history
from modules.train.history import describe_environment, read_commit

SIZES = ("32x64=16x250", "64x64=16x250", "64x128=16x250", "128x256=4x250")
BUDGET = "16x250"  # of a size that is given without one
FLAGS = ["--pictures", "none"]  # of the Trainer besides size, budget and seed
MOMENTS, WIDEST, TALL = 6, 1600, 128  # of the picture: frames in a row; px of its width and of a frame's height
TITLES = {
    "size": "frame", "levels": "levels", "parameters": "parameters, M", "gflop": "GFLOP a frame", "budget": "training",
    "frames": "frames trained", "psnr": "PSNR, dB", "ssim": "SSIM", "nearest_pose": "nearest pose, dB",
    "gain": "gain, dB", "train_rate": "training, frames/s", "predict_rate": "prediction, frames/s",
    "memory_gb": "peak memory, GB",
}


class Size(NamedTuple):
    """A frame size in pixels and how long to train at it."""

    height: int
    width: int
    epochs: int
    steps: int  # of an epoch

    @classmethod
    def parse(cls, text: str) -> "Size":
        """"64x128=16x250", or "64x128" for the usual budget."""
        size, _, budget = text.partition("=")
        found = re.fullmatch(r"(\d+)x(\d+)=(\d+)x(\d+)", f"{size}={budget or BUDGET}")
        if not found or "0" in found.groups():
            raise argparse.ArgumentTypeError(f"{text}: expected HEIGHTxWIDTH or HEIGHTxWIDTH=EPOCHSxSTEPS")
        return cls(*map(int, found.groups()))


def check_pictures(data: Path, sizes: list[Size]) -> None:
    """InputError if a frame is larger than the data set's pictures: it would show what nobody drew."""
    path = training_images(data)[0][0]
    width, height = Image.open(path).size
    for size in sizes:
        if size.height > height or size.width > width:
            raise InputError(f"{path}: a picture of {height}x{width}; expected at least {size.height}x{size.width}, "
                             "see make_dataset.py --height --width, or leave the size out of --sizes")


def measure(size: Size, seed: int, data: Path, folder: Path) -> dict:
    """Train and test one size in `folder`, or what is left of it."""
    path, name, budget = folder / "result.json", f"{size.height}x{size.width}", f"{size.epochs} x {size.steps} steps"
    wanted = {"size": name, "budget": budget, "seed": seed, "data": str(data)}
    known = read_json(path) if path.is_file() else {}
    if wanted.items() <= known.items():
        return known
    print(f"== {name}, {budget} ==", flush=True)
    place = ["--DR", str(data), "--frame_H", str(size.height), "--frame_W", str(size.width)]
    flags = ["--num_epoch", size.epochs, "--epoch_steps", size.steps, "--val_every", max(1, size.epochs // 2)]
    flags = [*place, *FLAGS, *map(str, flags), "--seed", str(seed), "--save_root", str(folder)]
    args = parse_trainer(flags)
    done = launch("Trainer.py", *flags, *(["--overwrite"] if known else []))
    launch("Tester.py", *place, "--ckpt_path", folder / "best.ckpt", "--save_root", folder / "test",
           "--pictures", "none")
    history, tested = read_history(folder / "metrics.csv"), read_json(folder / "test/metrics.json")
    scored = [s for s in tested["sequences"] if s["psnr"] is not None]
    if not scored or "nearest_pose" not in scored[0]["baselines"]:
        raise InputError(f"{data}: expected true frames of a test sequence, and a training set beside it")
    model = model_from_checkpoint(load_checkpoint(folder / "best.ckpt"), folder / "best.ckpt")[0]
    of_epoch = size.steps * args.batch_size * (args.train_vi_len - 1)  # predicted frames
    psnr, nearest = (float(np.mean([s["psnr"] for s in some])) for some in (
        scored, [s["baselines"]["nearest_pose"] for s in scored]))
    result = wanted | {
        "levels": model.config["levels"], "parameters": sum(p.numel() for p in model.parameters()) / 1e6,
        "gflop": gflop_per_frame(model, size.height, size.width), "frames": size.epochs * of_epoch,
        "psnr": psnr, "ssim": mean_or_none([s["ssim"] for s in scored]), "nearest_pose": nearest,
        "gain": psnr - nearest,
        "train_rate": len(history) / sum(1 / row["frames_per_second"] for row in history),
        "predict_rate": sum(s["frames"] - 1 for s in tested["sequences"]) / tested["seconds"],
        "memory_gb": done.memory_gb, "picture": f"{folder.name}/test/seq{scored[0]['name']}/frames.npz",
        "commit": read_commit(),
    }
    write_json(path, result)
    return result


def mean_or_none(values: list[float | None]) -> float | None:
    """Their mean; None if one is unknown."""
    return None if None in values else float(np.mean(values))


def make_table(runs: list[dict]) -> list[list[str]]:
    """Header and a row per size."""
    digits = {"levels": 0, "frames": 0, "ssim": 4, "train_rate": 0, "predict_rate": 0}

    def text(key: str, value) -> str:
        return "" if value is None else value if isinstance(value, str) else f"{value:,.{digits.get(key, 2)}f}"

    return [list(TITLES.values()), *([text(key, run[key]) for key in TITLES] for run in runs)]


def draw_strips(runs: list[dict], root: Path) -> np.ndarray:
    """Moments of the first test sequence at every size, truth above prediction: (height, width, 3) uint8."""
    rows = []
    for run in runs:
        with np.load(root / run["picture"]) as film:
            truth, prediction = film["truth"], film["prediction"]
        _, height, width, _ = truth.shape
        times, gap = max(1, TALL // height), 4
        count = max(1, min(MOMENTS, len(truth) - 1, WIDEST // (width * times + gap)))
        moments = np.linspace(len(truth) / count, len(truth), count).astype(int) - 1  # no given frame, the last one
        large = [np.concatenate([truth[t], prediction[t]]).repeat(times, 0).repeat(times, 1) for t in moments]
        words, numbers = blank_line(WIDEST), ", ".join(str(t + 1) for t in moments)
        write_words(words, 4, f"{run['size']}, {run['budget']}: {run['psnr']:.2f} dB, nearest training pose "
                              f"{run['nearest_pose']:.2f} dB. Truth above, prediction below, frames {numbers}")
        paper = np.full((2 * height * times + gap, WIDEST, 3), 255, np.uint8)
        for i, cell in enumerate(large):
            left = i * (width * times + gap)
            paper[:-gap, left : left + cell.shape[1]] = cell[:, : WIDEST - left]
        rows += [words, paper]
    return np.concatenate(rows)


def write(out: Path, result: dict, root: Path) -> None:
    """OUT.json, OUT.md, OUT.png, and the table on stdout."""
    text, picture = to_markdown(make_table(result["runs"])), io.BytesIO()
    write_json(out.with_name(out.name + ".json"), result)
    write_text(out.with_name(out.name + ".md"), text)
    Image.fromarray(draw_strips(result["runs"], root)).save(picture, "PNG", optimize=True)
    write_bytes(out.with_name(out.name + ".png"), picture.getvalue())
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--DR", required=True, help="data set: the folder that holds train/, val/ and test/")
    parser.add_argument("--out", default="runs/sizes", help="path of the JSON, Markdown and PNG, without ending")
    parser.add_argument("--keep", help="folder of the runs, to go on from there (default: they are deleted)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--sizes", type=Size.parse, nargs="+", default=[Size.parse(text) for text in SIZES],
                        metavar="HxW=ExS", help="frame sizes, each with E epochs of S steps "
                                                f"(default: {' '.join(SIZES)}; a size alone: {BUDGET})")
    args = parser.parse_args()
    data, out, runs = Path(args.DR).resolve(), Path(args.out), []
    check_pictures(data, args.sizes)
    device = pick_device(None)
    environment = describe_environment(device, pick_precision("auto", device))
    with contextlib.ExitStack() as held:
        root = Path(args.keep or held.enter_context(tempfile.TemporaryDirectory()))
        for size in args.sizes:
            folder = root / f"{size.height}x{size.width}_{size.epochs}x{size.steps}_seed{args.seed}"
            runs.append(measure(size, args.seed, data, folder))
            write(out, {"environment": environment, "runs": runs}, root)


if __name__ == "__main__":
    run_program(main)
