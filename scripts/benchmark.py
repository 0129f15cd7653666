"""Measure the speed of training, rollouts and whole programs, and of a plain loop that does the same work.

    python scripts/benchmark.py --out docs/images/benchmark          (--quick: a few minutes on two cores)

The plain loop is the course's network in float32 and NCHW, one sequence and one frame at a time; it decodes the images
again for each training step and writes GIFs with Pillow. Everything is timed in interleaved rounds. The table has the
medians in seconds; of the plain loop a part is timed and scaled. The data are drawn by make_dataset.py: images of
1024x512, the course's size, for training, and of 32x64 for whole programs, which find them in a warm cache.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from modules.data.pixels import to_uint8
from modules.data.sequence import Sequence
from modules.device import pick_device, pick_precision
from modules.files import to_markdown, write_json, write_text
from modules.model.vae import VAE_Model
from modules.options import BEST, parse_trainer
from modules.progress import Progress
from modules.runtime import InputError, run_program
from modules.score.predict import predict
from modules.show.curves import BLUE, ORANGE, new_figure, save_figure
from modules.train.history import describe_environment
from Trainer import Trainer

PRESETS = {"template": "--preset template --tfr 0 --batch_size {batch}", "multiscale": "--preset best"}
HEIGHT, WIDTH, SEQUENCE = 32, 64, 629  # size of the frames in pixels; predicted frames of a course sequence
LARGE = "--width 1024 --height 512 --train_clips 1 --train_frames 48 --val_frames 2 --test_sequences 1 --test_frames 2"
CLIP = 16  # frames of a training clip of the template and the plain loop


class Size(NamedTuple):
    """How much is measured."""

    rounds: int
    batch: int  # clips of a step of the template and the plain loop
    seconds: float  # of each measurement of training and rollouts
    part: int  # frames that a rollout predicts in one go; its seconds are scaled
    frames: int  # predicted in a sequence of the whole programs
    steps: int  # of the Trainer as a whole program


FULL, QUICK = Size(5, 4, 10.0, 64, SEQUENCE, 100), Size(1, 1, 3.0, 8, 63, 10)


class PlainLoop:
    """The reference. data: for `train`; tests: data set for `test`, which writes to `out`; model: of the course's
    architecture. `train`, `rollout` and `test` return the number of frames that they predicted."""

    def __init__(self, data: Path, tests: Path, out: Path, model: VAE_Model, size: Size):
        self.tests, self.out, self.size, self.device = tests, out, size, pick_device(None)
        self.files = [sorted((data / "train" / kind).iterdir()) for kind in ("train_img", "train_label")]
        self.model = model.to(self.device)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        self.readers, self.random = ThreadPoolExecutor(os.cpu_count()), np.random.default_rng(0)

    def decode(self, path: Path) -> Tensor:
        image = Image.open(path).convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).to(self.device) / 255

    def noise(self, batch: int) -> Tensor:
        return torch.randn(batch, *self.model.latent_shape(HEIGHT, WIDTH), device=self.device)

    def next_frame(self, last: Tensor, pose: Tensor, z: Tensor) -> Tensor:
        return self.model.Generator(self.model.Decoder_Fusion(self.model.frame_transformation(last), pose, z))

    def train(self) -> int:
        """One step, each frame from the last generated one."""
        batch = self.size.batch
        starts = self.random.integers(len(self.files[0]) - CLIP + 1, size=batch)
        files = [kind[start + t] for kind in self.files for start in starts for t in range(CLIP)]
        frames, poses = torch.stack([*self.readers.map(self.decode, files)]).unflatten(0, (2, batch, CLIP))
        last, losses = frames[:, 0], []
        for t in range(1, CLIP):
            pose = self.model.label_transformation(poses[:, t])
            true_features = self.model.frame_transformation(frames[:, t])
            z, mu, logvar = self.model.Gaussian_Predictor(true_features, pose, self.noise(batch))
            last = self.next_frame(last, pose, z)
            kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum() / batch
            losses.append((last - frames[:, t]).square().mean() + kl)
        self.optimizer.zero_grad()
        (sum(losses) / len(losses)).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return batch * (CLIP - 1)

    @torch.no_grad()
    def predict(self, x_1: Tensor, poses: Tensor) -> Tensor:
        """Frames 2 … T (T-1, 3, H, W) from x_1 (3, H, W) and poses (T, 3, H, W), floats."""
        last, frames = x_1[None], []
        for pose in poses[1:]:
            last = self.next_frame(last, self.model.label_transformation(pose[None]), self.noise(1))
            frames.append(last)
        return torch.cat(frames)

    def rollout(self) -> int:
        images = torch.rand(self.size.part + 1, 3, HEIGHT, WIDTH, device=self.device)
        return len(self.predict(images[0], images))

    def test(self) -> int:
        """Decode and predict the first frames of test sequence 0, and write three GIFs."""
        files = [sorted((self.tests / "test" / kind / "0").iterdir()) for kind in ("test_label", "test_gt")]
        poses, truth = (torch.stack([self.decode(path) for path in paths[: self.size.part + 1]]) for paths in files)
        for i, images in enumerate((self.predict(truth[0], poses), poses, truth)):
            first, *rest = map(Image.fromarray, to_uint8(images).permute(0, 2, 3, 1).cpu().numpy())
            first.save(self.out / f"{i}.gif", save_all=True, append_images=rest, duration=50, loop=0)
        return self.size.part


class Case(NamedTuple):
    """A row of the table. plain: the same work of the plain loop: its method -> frames."""

    name: str
    measure: Callable[[], float]  # seconds
    plain: dict[str, int] = {}


def per_frame(work: Callable[[], int], seconds: float) -> float:
    """Seconds per frame: `work`, which returns its number of frames, runs once untimed, then for so many seconds."""
    work()
    begin, frames = time.perf_counter(), 0
    while not frames or time.perf_counter() - begin < seconds:
        frames += work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return (time.perf_counter() - begin) / frames


def launch(*command) -> float:
    """Seconds of `python command…`; InputError with its last words where it fails."""
    begin = time.perf_counter()
    words = [sys.executable, *map(str, command)]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace")
    if result.returncode:
        raise InputError(f"{command[0]} ended with code {result.returncode}: {result.stderr.strip()[-300:]}")
    return time.perf_counter() - begin


def model_cases(data: Path, arch: str, precision: str, size: Size) -> list[Case]:
    """Training and rollouts of an architecture by the Trainer's own step and `predict`."""
    flags = f"{PRESETS[arch]} --num_epoch 1 --epoch_steps 10000 --precision {precision}".format(batch=size.batch)
    place = ["--DR", str(data), "--save_root", str(data / "run"), "--cache_dir", str(data / "cache")]
    trainer = Trainer(parse_trainer([*place, *flags.split()]))
    batches, images = trainer.feed.batches(0), torch.zeros(size.part + 1, 3, HEIGHT, WIDTH, dtype=torch.uint8)

    def train() -> int:
        batch = next(batches)
        trainer.step(batch)
        return batch.frames.shape[0] * (batch.frames.shape[1] - 1)

    def rollouts(count: int) -> int:
        predict(trainer.model, [Sequence("", images[:1], images)] * count, trainer.dtype)
        return count * size.part

    name = f"{arch}, {'bf16' if trainer.dtype == torch.bfloat16 else 'fp32'}"
    return [Case(f"training, 1,000 frames: {name}", lambda: 1000 * per_frame(train, size.seconds), {"train": 1000}), *(
        Case(f"{count} x {SEQUENCE} frames: {name}",
             lambda count=count: count * SEQUENCE * per_frame(lambda: rollouts(count), size.seconds),
             {"rollout": count * SEQUENCE}) for count in (1, 6))]


def program_cases(data: Path, size: Size) -> list[Case]:
    """The programs as a user starts them, each into a new folder. data: of 32x64, with six test sequences."""
    def run(program: str, *flags) -> float:
        with tempfile.TemporaryDirectory() as out:
            return launch(program, "--DR", data, "--save_root", out, "--cache_dir", data / "cache", *flags)

    test = ["Tester.py", "--ckpt_path", ROOT / "docs/pretrained/dancer.ckpt"]
    train = ["Trainer.py", "--num_epoch", 1, "--epoch_steps"]
    trained = size.steps * BEST["batch_size"] * (BEST["train_vi_len"] - 1)  # predicted frames
    return [
        Case("Tester.py, six sequences, no images", lambda: run(*test, "--pictures", "none")),
        Case("Tester.py, six sequences", lambda: run(*test), {"test": 6 * size.frames}),
        Case(f"Trainer.py, {size.steps} steps, a validation", lambda: run(*train, size.steps),
             {"train": trained, "test": size.frames}),
        Case("Trainer.py, one step, no images", lambda: run(*train, 1, "--val_vi_len", 2, "--pictures", "none")),
    ]


def measure(loop: PlainLoop, cases: list[Case], size: Size) -> list[dict]:
    """The rows of the table: medians over the rounds."""
    parts = [Case(work.__name__, lambda work=work: per_frame(work, size.seconds))
             for work in (loop.train, loop.rollout, loop.test)]
    samples = {case.name: [] for case in (*parts, *cases)}
    with Progress("measuring", size.rounds * len(samples), "case") as bar:
        for case in (*parts, *cases) * size.rounds:
            bar.say(case.name)
            samples[case.name].append(case.measure())
            bar.update()
    medians, rows = {name: statistics.median(values) for name, values in samples.items()}, []
    for case in cases:
        plain, seconds = sum(count * medians[part] for part, count in case.plain.items()) or None, medians[case.name]
        rows.append({"name": case.name, "seconds": seconds, "plain": plain, "times": plain and plain / seconds})
    return rows


def write(out: Path, rows: list[dict], about: dict) -> None:
    """OUT.json, OUT.md, OUT.png, and the table on stdout. about: the machine and how much was measured."""
    table = [["", "seconds", "plain loop, seconds", "times"]]
    for row in rows:
        table.append([row["name"], *(f"{row[key]:.4g}" if row[key] else "" for key in ("seconds", "plain", "times"))])
    write_json(out.with_name(out.name + ".json"), about | {"rows": rows})
    write_text(out.with_name(out.name + ".md"), to_markdown(table))
    draw_bars(rows, out.with_name(out.name + ".png"))
    print(to_markdown(table))


def draw_bars(rows: list[dict], path: Path) -> None:
    """Seconds of every case, and of the plain loop where it does the same work, on a logarithmic axis."""
    figure, (axis,) = new_figure(size=(6, 0.28 * len(rows) + 1))
    for key, shift, color, label in (("seconds", -0.2, BLUE, "this program"), ("plain", 0.2, ORANGE, "plain loop")):
        places = [i for i, row in enumerate(rows) if row[key]]
        bars = axis.barh([i + shift for i in places], [rows[i][key] for i in places], 0.36, color=color, label=label)
        axis.bar_label(bars, fmt="%.3g", padding=2, fontsize=7)
    axis.set(xscale="log", yticks=range(len(rows)), yticklabels=[row["name"] for row in rows], xlabel="seconds")
    axis.set_xlim(right=1.6 * axis.get_xlim()[1])  # room for the last number
    axis.invert_yaxis()
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/benchmark", help="path of the JSON, Markdown and PNG, without ending")
    parser.add_argument("--quick", action="store_true", help="one round, short sequences, batches of one clip")
    args = parser.parse_args()
    size = QUICK if args.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        large, small, frames = Path(folder, "large"), Path(folder, "small"), size.frames + 1
        launch("scripts/make_dataset.py", large, *LARGE.split())
        launch("scripts/make_dataset.py", small, "--val_frames", frames, "--test_sequences", 6, "--test_frames", frames)
        loop, cases = PlainLoop(large, small, Path(folder), VAE_Model(), size), program_cases(small, size)
        cases[0].measure()  # fills the cache
        for arch in PRESETS:
            for precision in ["auto"] if args.quick else ["fp32", "auto"]:
                cases += model_cases(large, arch, precision, size)
        rows = measure(loop, cases, size)
    about = {"environment": describe_environment(loop.device, pick_precision("auto", loop.device))}
    write(Path(args.out), rows, about | {"size": size._asdict()})


if __name__ == "__main__":
    run_program(main)
