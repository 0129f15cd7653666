"""Measure the speed of training, rollouts and whole programs, and of a plain loop that does the same work.

    python scripts/benchmark.py --out runs/benchmark.md       (--rounds 1: a few minutes on two cores)

The plain loop is the course's network in float32 and NCHW. It predicts one sequence and one frame at a time, decodes
the images again for each training step and writes GIFs with Pillow. Its seconds are scaled from a part of the work.
The table has medians over the rounds. make_dataset.py draws the data: images of 1024x512 (the course's size) for
training, and of 32x64 for whole programs, which find them in a warm cache.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
from modules.files import to_markdown, write_text
from modules.model.vae import VAE_Model
from modules.options import BEST, parse_trainer, positive
from modules.progress import Progress
from modules.runtime import InputError, run_program
from modules.score.predict import predict
from modules.train.history import describe_environment
from Trainer import Trainer

PRESETS = {"template": "--preset template --tfr 0 --batch_size 4", "multiscale": "--preset best"}
HEIGHT, WIDTH, SEQUENCE = 32, 64, 629  # size of the frames in pixels; predicted frames of a course sequence
LARGE = "--width 1024 --height 512 --train_clips 1 --train_frames 48 --val_frames 2 --test_sequences 1 --test_frames 2"
SMALL = "--val_frames 630 --test_sequences 6 --test_frames 630"
BATCH, CLIP = 4, 16  # clips of a step, and frames of a clip, of the template and the plain loop
SECONDS, PART = 10.0, 64  # of each measurement of training and rollouts; frames of a measured rollout
STEPS = 100  # of the Trainer as a whole program


class PlainLoop:
    """The reference. data: for `train`; tests: data set for `test`, which writes to `out`; model: of the course's
    architecture. `train`, `rollout` and `test` return the number of frames that they predicted."""

    def __init__(self, data: Path, tests: Path, out: Path, model: VAE_Model):
        self.tests, self.out, self.device = tests, out, pick_device(None)
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
        starts = self.random.integers(len(self.files[0]) - CLIP + 1, size=BATCH)
        files = [kind[start + t] for kind in self.files for start in starts for t in range(CLIP)]
        frames, poses = torch.stack([*self.readers.map(self.decode, files)]).unflatten(0, (2, BATCH, CLIP))
        last, losses = frames[:, 0], []
        for t in range(1, CLIP):
            pose = self.model.label_transformation(poses[:, t])
            true_features = self.model.frame_transformation(frames[:, t])
            z, mu, logvar = self.model.Gaussian_Predictor(true_features, pose, self.noise(BATCH))
            last = self.next_frame(last, pose, z)
            kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum() / BATCH
            losses.append((last - frames[:, t]).square().mean() + kl)
        self.optimizer.zero_grad()
        (sum(losses) / len(losses)).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return BATCH * (CLIP - 1)

    @torch.no_grad()
    def predict(self, x_1: Tensor, poses: Tensor) -> Tensor:
        """Frames 2 … T (T-1, 3, H, W) from x_1 (3, H, W) and poses (T, 3, H, W), floats."""
        last, frames = x_1[None], []
        for pose in poses[1:]:
            last = self.next_frame(last, self.model.label_transformation(pose[None]), self.noise(1))
            frames.append(last)
        return torch.cat(frames)

    def rollout(self) -> int:
        images = torch.rand(PART + 1, 3, HEIGHT, WIDTH, device=self.device)
        return len(self.predict(images[0], images))

    def test(self) -> int:
        """Decode and predict the first frames of test sequence 0, and write three GIFs."""
        files = [sorted((self.tests / "test" / kind / "0").iterdir()) for kind in ("test_label", "test_gt")]
        poses, truth = (torch.stack([self.decode(path) for path in paths[: PART + 1]]) for paths in files)
        for i, images in enumerate((self.predict(truth[0], poses), poses, truth)):
            first, *rest = map(Image.fromarray, to_uint8(images).permute(0, 2, 3, 1).cpu().numpy())
            first.save(self.out / f"{i}.gif", save_all=True, append_images=rest, duration=50, loop=0)
        return PART


class Case(NamedTuple):
    """A row of the table."""

    name: str
    measure: Callable[[], float]  # seconds
    plain: dict[str, int]  # the same work: method of PlainLoop -> frames


def per_frame(work: Callable[[], int]) -> float:
    """Seconds per frame: `work`, which returns its number of frames, runs once untimed, then for SECONDS."""
    work()
    begin, frames = time.perf_counter(), 0
    while not frames or time.perf_counter() - begin < SECONDS:
        frames += work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return (time.perf_counter() - begin) / frames


def launch(*command) -> float:
    """Seconds of `python command…`; InputError with the end of its stderr where it fails."""
    begin = time.perf_counter()
    result = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, errors="replace")
    if result.returncode:
        raise InputError(f"{command[0]} ended with code {result.returncode}: {result.stderr.strip()[-300:]}")
    return time.perf_counter() - begin


def model_cases(data: Path, arch: str, precision: str) -> list[Case]:
    """Training and rollouts of an architecture by the Trainer's own step and `predict`."""
    place = ["--DR", str(data), "--save_root", str(data / "run"), "--cache_dir", str(data / "cache")]
    flags = f"{PRESETS[arch]} --num_epoch 1 --epoch_steps 10000 --precision {precision}"
    trainer = Trainer(parse_trainer([*place, *flags.split()]))
    batches, images = trainer.feed.batches(0), torch.zeros(PART + 1, 3, HEIGHT, WIDTH, dtype=torch.uint8)

    def train() -> int:
        batch = next(batches)
        trainer.step(batch)
        return batch.frames.shape[0] * (batch.frames.shape[1] - 1)

    def rollouts(count: int) -> int:
        predict(trainer.model, [Sequence("", images[:1], images)] * count, trainer.dtype)
        return count * PART

    name, one, six = f"{arch}, {precision}", SEQUENCE, 6 * SEQUENCE
    return [
        Case(f"training, 1,000 frames: {name}", lambda: 1000 * per_frame(train), {"train": 1000}),
        Case(f"1 x {SEQUENCE} frames: {name}", lambda: one * per_frame(lambda: rollouts(1)), {"rollout": one}),
        Case(f"6 x {SEQUENCE} frames: {name}", lambda: six * per_frame(lambda: rollouts(6)), {"rollout": six}),
    ]


def program_cases(data: Path) -> list[Case]:
    """The programs as a user starts them, each into a new folder. data: SMALL."""
    def run(program: str, *flags) -> float:
        with tempfile.TemporaryDirectory() as out:
            return launch(program, "--DR", data, "--save_root", out, "--cache_dir", data / "cache", *flags)

    checkpoint = ROOT / "docs/pretrained/dancer.ckpt"
    train = ["Trainer.py", "--num_epoch", 1, "--epoch_steps", STEPS]
    return [
        Case("Tester.py, six sequences", lambda: run("Tester.py", "--ckpt_path", checkpoint), {"test": 6 * SEQUENCE}),
        Case(f"Trainer.py, {STEPS} steps, a validation", lambda: run(*train),
             {"train": STEPS * BEST["batch_size"] * (BEST["train_vi_len"] - 1), "test": SEQUENCE}),
    ]


def measure(loop: PlainLoop, cases: list[Case], rounds: int) -> list[list[str]]:
    """The table, medians over the rounds. Its first rows are the plain loop's seconds per frame."""
    works = {work.__name__: partial(per_frame, work) for work in (loop.train, loop.rollout, loop.test)}
    measures = [*works.items(), *((case.name, case.measure) for case in cases)]
    samples = {name: [] for name, _ in measures}
    with Progress("measuring", rounds * len(measures), "case") as bar:
        for name, work in measures * rounds:
            bar.say(name)
            samples[name].append(work())
            bar.update()
    seconds = {name: statistics.median(values) for name, values in samples.items()}
    table = [["", "seconds", "plain loop, seconds", "times"]]
    table += [[f"plain loop, {name}", "", f"{seconds[name]:.4g}", ""] for name in works]
    for name, _, plain_frames in cases:
        plain = sum(frames * seconds[work] for work, frames in plain_frames.items())
        table.append([name, *(f"{value:.4g}" for value in (seconds[name], plain, plain / seconds[name]))])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default="runs/benchmark.md", help="the table, a Markdown file")
    parser.add_argument("--rounds", type=positive, default=5, help="measurements of every case (default: 5)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder, "large"), Path(folder, "small")
        launch("scripts/make_dataset.py", large, *LARGE.split())
        launch("scripts/make_dataset.py", small, *SMALL.split())
        loop, cases = PlainLoop(large, small, Path(folder), VAE_Model()), program_cases(small)
        cases[0].measure()  # fills the cache
        dtype = pick_precision("auto", loop.device)
        precisions = ("fp32", "bf16") if dtype == torch.bfloat16 else ("fp32",)
        for arch, precision in itertools.product(PRESETS, precisions):
            cases += model_cases(large, arch, precision)
        table = measure(loop, cases, args.rounds)
    text = f"{to_markdown(table)}\n{to_markdown([['machine', ''], *describe_environment(loop.device, dtype).items()])}"
    write_text(args.out, text)
    print(text)


if __name__ == "__main__":
    run_program(main)
