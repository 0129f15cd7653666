"""Measure training and prediction: one command, one table, JSON and a bar chart.

    python scripts/benchmark.py --out docs/images/benchmark          (--quick: two minutes on two cores)

Every architecture and precision is timed in rounds, interleaved with a plain reference: the template architecture in
float32, NCHW, one sequence at a time, every picture decoded again for every training step. Figures are medians over the
rounds; ratios are against the reference of the same run. Data are drawn by make_dataset.py, as large as the course's.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from modules.data.image_cache import read_image
from modules.data.layout import training_images
from modules.data.sequence import Sequence
from modules.files import write_json, write_text
from modules.model.vae import VAE_Model
from modules.options import parse_trainer
from modules.progress import Progress
from modules.runtime import keep_freed_memory, run_program
from modules.score.predict import predict
from modules.show.curves import BLUE, ORANGE, new_figure, save_figure
from modules.train.history import describe_environment
from Trainer import Trainer

PRESETS = {"template": "template", "multiscale": "best"}
SEQUENCE = 629  # predicted frames of a course sequence
HEIGHT, WIDTH = 32, 64  # of the frames
DATA = "--width 1024 --height 512 --train_clips 1 --train_frames 48 --val_frames 9 --test_sequences 1 --test_frames 2"


class Case:
    """One line of the table: an architecture at a precision, through the Trainer's own step and `predict`."""

    def __init__(self, data: Path, arch: str, precision: str, batch: int):
        self.name, self.arch, self.precision = f"{arch} {precision}", arch, precision
        flags = ["--num_epoch", "1", "--epoch_steps", "10000"]
        flags += ["--batch_size", str(batch)] if arch == "template" else []
        args = parse_trainer([*common_flags(data, arch, precision), *flags])
        self.trainer = Trainer(args)
        self.model, self.device, self.dtype = self.trainer.model, self.trainer.device, self.trainer.dtype
        self.trainer.feed.begin(0)
        self.at, self.training, self.one, self.six = 0, [], [], []

    def train(self, seconds: float) -> None:
        """Take steps for about so many seconds, at least one; notes predicted frames per second."""
        for _ in range(5 if self.device.type == "cuda" else 1):
            self.step()  # warm up: another case has had the caches since
        synchronize()
        begin, frames = time.perf_counter(), 0
        while not frames or time.perf_counter() - begin < seconds:
            frames += self.step()
        synchronize()
        self.training.append(frames / (time.perf_counter() - begin))

    def step(self) -> int:
        """One optimizer step; returns the number of frames that it predicted."""
        batch = self.trainer.feed.batch(self.at)
        self.trainer.step(batch._replace(feed_truth=False, lr=torch.full_like(batch.lr, 1e-4)))
        self.at += 1
        return batch.frames.shape[0] * (batch.frames.shape[1] - 1)

    def predict(self, sequences: list[Sequence]) -> None:
        """Predict one sequence, and all of them; notes seconds scaled to 629 frames."""
        scale = SEQUENCE / (len(sequences[0].poses) - 1)
        for notes, some in ((self.one, sequences[:1]), (self.six, sequences)):
            self.rollouts([sequence._replace(poses=sequence.poses[:3]) for sequence in some])  # warm up
            synchronize()
            begin = time.perf_counter()
            self.rollouts(some)
            synchronize()
            notes.append(scale * (time.perf_counter() - begin))

    def rollouts(self, sequences: list[Sequence]) -> list[Tensor]:
        """The predicted frames of every sequence, (T-1, 3, H, W)."""
        return [frames[0, 1:] for frames in predict(self.model, sequences, self.dtype)]


class Reference(Case):
    """The template architecture written the plain way: float32, NCHW, one box after the other for one frame at a time,
    one sequence at a time, and every picture decoded again for every training step, on all cores."""

    def __init__(self, data: Path, batch: int):
        super().__init__(data, "template", "fp32", batch)
        self.name = "reference"
        self.model.to(memory_format=torch.contiguous_format)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)
        self.files = training_images(data)
        self.readers = ThreadPoolExecutor(os.cpu_count())

    def step(self) -> int:
        window = self.trainer.feed.plan.windows[self.at]
        pictures = ([files[i] for i in window.flatten()] for files in self.files)
        frames, poses = (torch.stack([*self.readers.map(self.decode, p)]).unflatten(0, window.shape) for p in pictures)
        last, losses = frames[:, 0], []
        for t in range(1, frames.shape[1]):
            pose = self.model.label_transformation(poses[:, t])
            true_features = self.model.frame_transformation(frames[:, t])
            z, mu, logvar = self.model.Gaussian_Predictor(true_features, pose, self.noise(len(frames)))
            last = self.next_frame(last, pose, z)
            kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum() / len(frames)
            losses.append((last - frames[:, t]).square().mean() + kl)
        self.optimizer.zero_grad()
        (sum(losses) / len(losses)).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.at += 1
        return len(frames) * (frames.shape[1] - 1)

    @torch.no_grad()
    def rollouts(self, sequences: list[Sequence]) -> list[Tensor]:
        predicted = []
        for sequence in sequences:
            last, frames = (sequence.frames[:1].to(self.device) / 255).contiguous(), []
            for pose in sequence.poses[1:]:
                features = self.model.label_transformation((pose[None].to(self.device) / 255).contiguous())
                last = self.next_frame(last, features, self.noise(1))
                frames.append(last)
            predicted.append(torch.cat(frames))
        return predicted

    def next_frame(self, last: Tensor, pose: Tensor, z: Tensor) -> Tensor:
        return self.model.Generator(self.model.Decoder_Fusion(self.model.frame_transformation(last), pose, z))

    def noise(self, batch: int) -> Tensor:
        return torch.randn(batch, *self.model.latent_shape(HEIGHT, WIDTH), device=self.device)

    def decode(self, path: Path) -> Tensor:
        return torch.from_numpy(read_image(path, HEIGHT, WIDTH).copy()).to(self.device) / 255


def common_flags(data: Path, arch: str, precision: str) -> list[str]:
    """The Trainer's flags that every measurement shares."""
    folders = ["--DR", str(data), "--save_root", str(data / "run"), "--cache_dir", str(data / "cache")]
    return [*folders, "--preset", PRESETS[arch], "--precision", precision]


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def gflop_per_frame(model: VAE_Model, height: int = HEIGHT, width: int = WIDTH) -> float:
    """Floating point operations of one predicted frame in 10^9, pose features included (2 per multiply-add)."""
    device, counts = next(model.parameters()).device, []
    for T in (2, 12):
        with FlopCounterMode(display=False) as counter:  # with gradients, so that every kernel is launched one by one
            first, poses = torch.rand(T + 1, 3, height, width, device=device).split([1, T])
            model.rollout(first, poses[None])
        counts.append(counter.get_total_flops())
    return (counts[1] - counts[0]) / 10 / 1e9


def matmul_peak(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """The best of ten square matrix multiplications, in 10^9 operations per second."""
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        a @ b
        synchronize()
        times.append(time.perf_counter() - begin)
    return 2 * size**3 / min(times) / 1e9


START_UP = """
import os, sys, time
sys.argv = ["Trainer.py", *sys.argv[2:], "--epoch_steps", "1", "--num_epoch", "1"]
begun = float({begun})
import Trainer, torch
trainer = Trainer.Trainer(Trainer.parse_trainer())
trainer.feed.begin(0)
trainer.step(trainer.feed.batch(0)).tolist()
print("SECONDS", time.time() - begun)
if torch.cuda.is_available():
    print("BYTES", torch.cuda.max_memory_allocated())
elif os.path.exists("/proc/self/status"):  # getrusage would tell the parent's memory if that is larger
    print("BYTES", 1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]))
"""


def start_up(data: Path, arch: str, precision: str) -> tuple[float, float | None]:
    """Seconds from the start of a fresh process to its first optimizer step, warm cache; its peak memory in GB,
    of the GPU where there is one."""
    code = START_UP.replace("{begun}", repr(time.time()))
    command = [sys.executable, "-c", code, "Trainer.py", *common_flags(data, arch, precision)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True)
    values = dict(line.split() for line in result.stdout.splitlines() if line.startswith(("SECONDS ", "BYTES ")))
    return float(values["SECONDS"]), float(values["BYTES"]) / 1e9 if "BYTES" in values else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/benchmark", help="path of the JSON, Markdown and PNG, without ending")
    parser.add_argument("--quick", action="store_true", help="two minutes on two cores: fewer rounds, frames and cases")
    parser.add_argument("--reference", action="store_true", help="only the reference and the default, for the ratio")
    parser.add_argument("--profile", action="store_true", help="also write where the last case spends its time")
    parser.add_argument("--batch_size", type=int, default=4, help="clips per step of the template (the report's: 4)")
    args = parser.parse_args()
    rounds, seconds, frames, batch = (2, 3.0, 9, 1) if args.quick else (5, 10.0, 65, args.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        print("Drawing pictures of 1024x512 …", file=sys.stderr)
        command = [sys.executable, str(ROOT / "scripts/make_dataset.py"), str(data), *DATA.split()]
        subprocess.run(command, check=True, capture_output=True)
        kinds = [(arch, precision) for arch in PRESETS for precision in ("fp32", "bf16")]
        kinds = [("template", "auto"), ("multiscale", "auto")] if args.quick else kinds
        kinds = [("multiscale", "auto")] if args.reference else kinds
        cases = [Reference(data, batch), *(Case(data, *kind, batch) for kind in kinds)]
        validation = cases[0].trainer.validation[0]
        poses = validation.poses.repeat(-(-frames // len(validation.poses)), 1, 1, 1)[:frames]
        sequences = [Sequence(str(i), validation.frames[:1], poses) for i in range(6)]
        with Progress("measuring", rounds * len(cases), "case") as bar:
            for _ in range(rounds):
                for case in cases:
                    bar.say(case.name)
                    keep_freed_memory(not isinstance(case, Reference))
                    case.train(seconds)
                    case.predict(sequences)
                    bar.update()
        rows = [summary(case, cases[0], data) for case in cases]
        if args.profile:
            write_profile(cases[-1], sequences, Path(f"{args.out}_profile.txt"))
    environment = describe_environment(cases[0].device, cases[0].dtype) | {
        "command": " ".join(sys.argv), "rounds": rounds, "frames_predicted": frames - 1, "template_batch_size": batch
    }
    write(Path(args.out), {"environment": environment, "rows": rows})


def summary(case: Case, reference: Case, data: Path) -> dict:
    """The medians of a case and its ratios against the reference."""
    seconds, memory = (None, None) if case is reference else start_up(data, case.arch, case.precision)
    rate, one, six = (statistics.median(values) for values in (case.training, case.one, case.six))
    gflop = gflop_per_frame(case.model)
    peak = matmul_peak(case.device, case.dtype, 4096 if case.device.type == "cuda" else 1536)
    return {
        "name": case.name, "train_frames_per_second": rate, "predict_1_seconds": one, "predict_6_seconds": six,
        "train_ratio": rate / statistics.median(reference.training),
        "predict_1_ratio": statistics.median(reference.one) / one,
        "predict_6_ratio": statistics.median(reference.six) / six,
        "start_up_seconds": seconds, "peak_memory_gb": memory, "gflop_per_frame": gflop,
        "parameters": sum(p.numel() for p in case.model.parameters()),
        "train_share_of_peak": 3 * gflop * rate / peak, "predict_6_share_of_peak": 6 * SEQUENCE * gflop / six / peak,
    }


def write_profile(case: Case, sequences: list[Sequence], path: Path) -> None:
    """The 15 operations that take most time of one training step and of one prediction, by torch.profiler."""
    cuda = case.device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if cuda else [])]
    text = ""
    for name, work in (("one training step", case.step), ("one prediction", lambda: case.rollouts(sequences))):
        with torch.profiler.profile(activities=kinds) as profile:
            work()
            synchronize()
        order = "self_device_time_total" if cuda else "self_cpu_time_total"
        table = profile.key_averages().table(sort_by=order, row_limit=15, max_name_column_width=48)
        text += f"{case.name}, {name}\n{table}\n"
    write_text(path, text)


def write(out: Path, result: dict) -> None:
    """OUT.json, OUT.md, OUT.png, and the table on stdout."""
    columns = {
        "name": "", "train_frames_per_second": "train frames/s", "train_ratio": "x", "predict_1_seconds": "1 seq. s",
        "predict_1_ratio": "x", "predict_6_seconds": "6 seq. s", "predict_6_ratio": "x", "start_up_seconds": "start s",
        "peak_memory_gb": "peak GB", "gflop_per_frame": "GFLOP/frame", "train_share_of_peak": "of peak, train",
        "predict_6_share_of_peak": "of peak, 6 seq.",
    }
    lines = ["| " + " | ".join(columns.values()) + " |", "|" + "---|" * len(columns)]
    for row in result["rows"]:
        cells = ("" if row[key] is None else row[key] if key == "name" else f"{row[key]:.3g}" for key in columns)
        lines.append("| " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    write_json(out.with_name(out.name + ".json"), result)
    write_text(out.with_name(out.name + ".md"), text)
    draw_benchmark(result["rows"], out.with_name(out.name + ".png"))
    print(text)


def draw_benchmark(rows: list[dict], path: Path) -> None:
    """Bars, on a logarithmic axis: how many times faster than the reference each case trains and predicts."""
    figure, (axis,) = new_figure(size=(6, 3.5))
    axis.set(xlabel="times the reference", title="Speed against the reference of the same run")
    for offset, key, color, label in (
        (0.2, "train_ratio", BLUE, "training"), (-0.2, "predict_6_ratio", ORANGE, "prediction, six sequences"),
    ):
        places = [i + offset for i in range(len(rows))]
        bars = axis.barh(places, [row[key] for row in rows], 0.38, color=color, label=label)
        axis.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
    axis.set(xscale="log", yticks=range(len(rows)), yticklabels=[row["name"] for row in rows])
    axis.set_xlim(right=1.3 * axis.get_xlim()[1])  # room for the last number
    axis.invert_yaxis()
    axis.legend(frameon=False, loc="upper right")
    save_figure(figure, path)


if __name__ == "__main__":
    run_program(main)
