"""What is the recursion for? Scores with and without the last frame, and where poses are missing.

    python scripts/recursion.py --DR DR --out docs/recursion runs/a/best.ckpt runs/b/best.ckpt …

Every model predicts the validation sequence, once as it is and once with x_1 in place of its last frame: a map from
poses to frames. Then the poses of RUN frames in a row are missing (white pictures), again and again; only these frames
are scored. To compare with: the last pose that was seen is shown again. Writes OUT.json, OUT.md and OUT.png.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from dataloader import Dataset_Dance
from modules.data.sequence import Sequence
from modules.device import pick_device, pick_precision
from modules.files import to_markdown, write_json, write_text
from modules.model.checkpoint import load_checkpoint, model_from_checkpoint
from modules.model.vae import VAE_Model
from modules.runtime import InputError, run_program
from modules.score.metrics import score
from modules.score.predict import predict
from modules.show.curves import COLORS, new_figure, save_figure
from modules.show.sequence import to_images

NO_POSE = 255  # the white of a pose picture that shows nobody
RUN, EVERY = 30, 60  # frames without a pose, and from the start of one such run to the next
SHOWN = (1, 3, 10, 30)  # the k-th frame without a pose, in the table and the picture
WAYS = {  # how the missing frames are predicted
    "recursion": "white pose", "map": "white pose, no last frame", "held": "last pose again",
}


def hide(poses: Tensor, starts: range, length: int) -> tuple[Tensor, Tensor]:
    """Poses (T, 3, H, W) without those of `length` frames from every start on: white, and the last one seen again."""
    white, held = poses.clone(), poses.clone()
    for start in starts:
        white[start : start + length] = NO_POSE
        held[start : start + length] = poses[start - 1]
    return white, held


def runs_of(values: Tensor, starts: range, length: int) -> Tensor:
    """Values (T-1, …) of frames 2, 3, … -> (runs, length, …), those of the hidden frames; a start is 0-based."""
    return torch.stack([values[start - 1 : start - 1 + length] for start in starts])


def without_last(model: VAE_Model):
    """The model's step with x_1 in place of the last frame."""

    def step(first, first_features, last_frame, *others, **options):
        return VAE_Model.step(model, first, first_features, first, *others, **options)

    return step


def measure(model: VAE_Model, sequence: Sequence, dtype: torch.dtype) -> tuple[dict, dict[str, Tensor]]:
    """Mean PSNR in dB with and without the last frame; `missing`: of the k-th frame without a pose, for each of WAYS.
    Beside it, the predicted films (T, 3, H, W) of WAYS, poses missing from frame EVERY / 2 on."""
    if len(sequence.poses) <= EVERY + RUN:
        raise InputError(f"validation {sequence.name}: {len(sequence.poses)} frames; expected more than {EVERY + RUN}")
    truth, last = sequence.frames, len(sequence.poses) - RUN
    offsets = [range(first, last, EVERY) for first in (EVERY // 2, EVERY)]  # so that nearly every frame is hidden once
    hidden = [hide(sequence.poses, starts, RUN) for starts in offsets]

    def films(*poses: Tensor) -> list[Tensor]:
        return [film[0] for film in predict(model, [sequence._replace(poses=p) for p in poses], dtype)]

    whole, *recursive = films(sequence.poses, *(white for white, _ in hidden), *(held for _, held in hidden))
    model.step = without_last(model)
    whole_map, *mapped = films(sequence.poses, *(white for white, _ in hidden))
    del model.step

    n = len(offsets)
    predicted = {"recursion": recursive[:n], "map": mapped, "held": recursive[n:]}
    missing = {}
    for way, both in predicted.items():
        runs = [runs_of(score(film[None], truth)[0], starts, RUN) for film, starts in zip(both, offsets, strict=True)]
        missing[way] = torch.cat(runs).mean(dim=0).tolist()
    scores = {"psnr": float(score(whole[None], truth).mean()), "psnr_map": float(score(whole_map[None], truth).mean())}
    return scores | {"missing": missing}, {way: both[0] for way, both in predicted.items()}


def make_table(results: dict[str, dict]) -> list[list[str]]:
    """Header, and a row for every run and way."""
    rows = [["run", "all poses", "all poses, no last frame", "poses missing", f"mean of {RUN}",
             *(f"frame {k}" for k in SHOWN)]]
    for name, result in results.items():
        for way, values in result["missing"].items():
            first = [name, f"{result['psnr']:.2f}", f"{result['psnr_map']:.2f}"] if way == "recursion" else [""] * 3
            rows.append([*first, WAYS[way], f"{np.mean(values):.2f}", *(f"{values[k - 1]:.2f}" for k in SHOWN)])
    return rows


def draw(results: dict[str, dict], strip: np.ndarray, path: Path) -> None:
    """PSNR over the frames since a pose was last seen, of every run and way, above moments of the last run's films."""
    figure, (axis, below) = new_figure(2, (7, 6), height_ratios=(1.2, 1))
    for (name, result), color in zip(results.items(), COLORS * len(results), strict=False):
        for (way, values), style in zip(result["missing"].items(), ("-", ":", "--"), strict=True):
            axis.plot(range(1, RUN + 1), values, color=color, linestyle=style, label=f"{name}: {WAYS[way]}")
        axis.axhline(result["psnr"], color=color, linewidth=0.6, alpha=0.6)
    axis.set(xlabel="frames since the last pose (thin lines: all poses known)", ylabel="PSNR (dB)",
             title="Frames whose pose is missing")
    axis.legend(frameon=False, ncols=len(results), loc=(0.12, 0.12))
    below.imshow(strip, interpolation="nearest")
    height, width = strip.shape[0] / (2 + len(WAYS)), strip.shape[1] / len(SHOWN)
    below.set_xticks([(i + 0.5) * width for i in range(len(SHOWN))], [str(k) for k in SHOWN])
    below.set_xlabel("frames without a pose")
    below.set_yticks([(i + 0.5) * height for i in range(2 + len(WAYS))], ["true pose", "truth", *WAYS.values()])
    below.grid(False)
    below.tick_params(length=0)
    below.spines[:].set_visible(False)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", help="best.ckpt of one or several runs")
    parser.add_argument("--DR", required=True, help="data set")
    parser.add_argument("--out", required=True, type=Path, help="path of the table and the figure, without ending")
    args = parser.parse_args()
    device, results = pick_device(None), {}
    dtype = pick_precision("auto", device)
    for path in args.checkpoints:
        model, (height, width) = model_from_checkpoint(load_checkpoint(path), path)
        model.to(device, memory_format=torch.channels_last)
        sequence = Dataset_Dance(args.DR, "val", height, width).sequences[0]
        results[Path(path).resolve().parent.name], films = measure(model, sequence, dtype)
    moments = [EVERY // 2 + k - 1 for k in SHOWN]
    rows = [sequence.poses, sequence.frames, *films.values()]
    strip = np.concatenate([np.concatenate(list(to_images(row[moments])), axis=1) for row in rows])
    table = to_markdown(make_table(results))
    write_json(args.out.with_suffix(".json"), results)
    write_text(args.out.with_suffix(".md"), table)
    draw(results, strip, args.out.with_suffix(".png"))
    print(table)


if __name__ == "__main__":
    run_program(main)
