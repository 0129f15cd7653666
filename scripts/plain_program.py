"""The plain reference as a program, for benchmark_programs.py: nothing is cached, nothing is done side by side.

    python scripts/plain_program.py DATA OUT FRAMES STEPS

It decodes the first FRAMES + 1 pictures of test sequence 0, predicts FRAMES frames one after the other with the
course's network in float32, writes three GIFs to OUT with Pillow, and takes STEPS training steps. Prints seconds per
frame as JSON.
"""

import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import torch
from benchmark import HEIGHT, WIDTH, Reference
from PIL import Image

from modules.data.reading import read_image
from modules.data.sequence import Sequence
from modules.runtime import keep_freed_memory, run_program
from modules.show.sequence import to_images


def main() -> None:
    data, out, frames, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    reference = Reference(data, batch=4)
    keep_freed_memory(False)
    print(json.dumps(measure(reference, data / "test", out, frames, steps)))


def measure(reference: Reference, test: Path, out: Path, frames: int, steps: int) -> dict[str, float]:
    """Seconds per predicted frame that loading, predicting, the GIFs and training take; "work": of all together."""
    moments = [time.perf_counter()]
    poses, truth = (load(sorted((test / kind / "0").glob("*.png"))[: frames + 1]) for kind in ("test_label", "test_gt"))
    moments.append(time.perf_counter())
    predicted = reference.rollouts([Sequence("0", truth[:1], poses)])[0]
    moments.append(time.perf_counter())
    out.mkdir(parents=True, exist_ok=True)
    for name, pictures in (("pred_seq", predicted), ("pose", poses), ("ground_truth", truth)):
        first, *rest = (Image.fromarray(image) for image in to_images(pictures))
        first.save(out / f"{name}.gif", save_all=True, append_images=rest, duration=50, loop=0)
    moments.append(time.perf_counter())
    trained = sum(reference.step() for _ in range(steps))
    moments.append(time.perf_counter())
    load_s, predict_s, gifs_s, train_s = (end - begin for begin, end in zip(moments, moments[1:], strict=False))
    return {"load": load_s / frames, "predict": predict_s / frames, "gifs": gifs_s / frames,
            "train": train_s / max(1, trained), "work": moments[-1] - moments[0]}


def load(paths: list[Path]) -> torch.Tensor:
    """Pictures (T, 3, H, W) uint8, decoded one after the other."""
    return torch.stack([torch.from_numpy(read_image(path, HEIGHT, WIDTH).copy()) for path in paths])


if __name__ == "__main__":
    run_program(main)
