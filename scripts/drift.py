"""Does a rollout drift? PSNR early against late, and a rollout of 5,000 frames with looped poses.

    python scripts/drift.py --DR DR --ckpt_path runs/best/best.ckpt --out docs/drift

The validation sequence's poses are run forwards and backwards in turn, so that the motion has no jump and the true
frame of every moment is known. Writes OUT.json and OUT.png.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from dataloader import Dataset_Dance
from modules.data.sequence import Sequence
from modules.device import pick_device, pick_precision
from modules.files import write_text
from modules.model.checkpoint import load_checkpoint, model_from_checkpoint
from modules.runtime import run_program
from modules.score.metrics import score
from modules.score.predict import predict
from modules.show.curves import BLUE, ORANGE, new_figure, save_figure
from modules.show.sequence import to_images

BLOCK = 500


def there_and_back(length: int, frames: int) -> torch.Tensor:
    """Indices 0, 1, …, length-1, length-2, …, 1, 0, 1, … : so many frames."""
    once = torch.cat([torch.arange(length), torch.arange(length - 2, 0, -1)])
    return once.repeat(-(-frames // len(once)))[:frames]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--DR", required=True, help="data set")
    parser.add_argument("--ckpt_path", required=True, help="best.ckpt of a run")
    parser.add_argument("--out", required=True, type=Path, help="path of the JSON and the PNG, without ending")
    parser.add_argument("--frames", type=int, default=5000, help="length of the rollout")
    args = parser.parse_args()
    device = pick_device(None)
    model, (height, width) = model_from_checkpoint(load_checkpoint(args.ckpt_path), args.ckpt_path)
    model.to(device, memory_format=torch.channels_last)
    sequence = Dataset_Dance(args.DR, "val", height, width).sequences[0]
    order = there_and_back(len(sequence.poses), args.frames)
    looped = Sequence("looped", sequence.frames[:1], sequence.poses[order])
    predicted = predict(model, [looped], pick_precision("auto", device))[0]  # (1, frames, 3, H, W)
    truth = sequence.frames[order]
    values = score(predicted, truth)[0].numpy()

    blocks = [float(values[start : start + BLOCK].mean()) for start in range(0, len(values), BLOCK)]
    result = {
        "frames_2_100": float(values[:99].mean()), "frames_530_630": float(values[528:629].mean()),
        "block": BLOCK, "blocks": blocks,
        "lowest_value": float(predicted.min()), "highest_value": float(predicted.max()),
    }
    moments = np.linspace(0, len(truth) - 1, 6).round().astype(int)
    strip = np.concatenate([np.concatenate([to_images(truth[t : t + 1])[0], to_images(predicted[0, t : t + 1])[0]])
                            for t in moments], axis=1)
    text = json.dumps(result, indent=1)
    write_text(args.out.with_name(args.out.name + ".json"), text)
    draw_drift(values, BLOCK, strip, moments + 1, args.out.with_name(args.out.name + ".png"))
    print(text)


def draw_drift(values: np.ndarray, block: int, strip: np.ndarray, numbers: np.ndarray, path: Path) -> None:
    """A long rollout: PSNR (dB) over the frames with its mean per block, above moments of truth and prediction.

    values: PSNR of frames 2, 3, …; strip: the moments side by side, truth over prediction, (2 H, n W, 3) uint8;
    numbers: the frame numbers of the n moments.
    """
    figure, (above, below) = new_figure(2, (8, 4.5), height_ratios=(2, 1.2))
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
    below.grid(False)
    below.tick_params(length=0)
    below.spines[:].set_visible(False)
    save_figure(figure, path)


if __name__ == "__main__":
    run_program(main)
