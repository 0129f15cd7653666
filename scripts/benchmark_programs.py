"""Measure whole programs as a user starts them, pictures included: Tester.py and Trainer.py from command to end.

    python scripts/benchmark_programs.py --out docs/images/programs          (--quick: short sequences, one round)

Interleaved in rounds, on pictures of 32x64 that make_dataset.py draws, with a warm cache. Beside them the plain
reference, plain_program.py, which loads pictures, predicts frame by frame, trains, and writes its GIFs with Pillow;
timed on a part of one sequence and scaled. Figures are medians. Every kind of file is also drawn on one core.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import numpy as np
from benchmark import SEQUENCE

from modules.device import pick_device, pick_precision
from modules.files import read_json, to_markdown, write_json, write_text
from modules.options import parse_trainer
from modules.progress import followed
from modules.runtime import InputError, run_program
from modules.show.curves import BLUE, ORANGE, draw_scores, new_figure, save_figure
from modules.show.panels import PredictedSequence
from modules.show.sequence import save_gif, write_frames, write_strip, write_video
from modules.train.history import describe_environment


class Size(NamedTuple):
    """How much is measured."""

    rounds: int
    frames: int  # predicted in a sequence
    train_frames: int  # of the data set
    steps: int  # of the Trainer
    plain_frames: int  # that the reference predicts; its seconds are scaled to `frames`
    plain_steps: int  # that it trains; scaled to the Trainer's predicted frames


FULL, QUICK = Size(3, SEQUENCE, 1200, 100, 64, 3), Size(1, 63, 1200, 10, 8, 1)
CHECKPOINT = ROOT / "docs/pretrained/dancer.ckpt"
STAGES = ("start", "training or prediction", "validation or scores", "files and pictures")
TESTER_ENDS = ("Predicting ", " s per sequence", "Your Result")  # words of the line that ends each stage but the last


class Launch(NamedTuple):
    """A program that ran: seconds to its end, to the first line with each of the words, and all that it printed.
    memory_gb: its peak memory when it printed its last line, None where the system doesn't tell."""

    seconds: float
    moments: dict[str, float]
    text: str
    memory_gb: float | None = None


class Case(NamedTuple):
    """A program with its flags. ends: words of the lines that end its stages; whole: its end counts, else the last of
    `ends`; plain: the seconds of the plain reference for the same work, of what plain_program.py measured."""

    name: str
    command: list
    ends: tuple[str, ...] = ()
    whole: bool = True
    plain: Callable[[dict], float] | None = None


def launch(program: str, *arguments, words: Iterable[str] = ()) -> Launch:
    """Run `python program arguments…` as a user does. InputError with its last line where it fails."""
    command = [sys.executable, str(ROOT / program), *map(str, arguments)]
    moments, lines, memory, begin = {}, [], None, time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace",
                          env=os.environ | {"PYTHONUNBUFFERED": "1"}) as process:
        for line in process.stdout:
            lines.append(line)
            memory = peak_memory(process.pid) or memory
            for word in words:
                if word in line:
                    moments.setdefault(word, time.perf_counter() - begin)
    seconds = time.perf_counter() - begin
    if process.returncode:
        raise InputError(f"{program} ended with code {process.returncode}: {lines[-1] if lines else 'no word'}")
    return Launch(seconds, moments, "".join(lines), memory)


def peak_memory(process: int) -> float | None:
    """The peak memory of a running process up to now in GB, where Linux tells it."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(encoding="utf-8"))
        return int(found[1]) * 1024 / 1e9 if found else None
    return None


def draw_data(folder: Path, sequences: int, frames: int, train_frames: int, val_frames: int) -> Path:
    """A data set of make_dataset.py; fewer test sequences are the first ones of more."""
    launch("scripts/make_dataset.py", folder, "--test_sequences", sequences, "--test_frames", frames,
           "--train_frames", train_frames, "--val_frames", val_frames)
    return folder


def make_cases(folder: Path, size: Size) -> list[Case]:
    """All programs that are timed, on data sets that are drawn here."""
    one, six = (draw_data(folder / str(n), n, size.frames + 1, size.train_frames, size.frames + 1) for n in (1, 6))
    short = draw_data(folder / "short", 1, 2, 60, 2)
    train = ["Trainer.py", "--num_epoch", 1, "--val_vi_len", size.frames + 1, *data_flags(six)]
    args = parse_trainer([*map(str, train[1:]), "--save_root", "x"])
    trained = size.steps * args.batch_size * (args.train_vi_len - 1)  # predicted frames

    def test(data: Path, *flags) -> list:
        return ["Tester.py", "--ckpt_path", CHECKPOINT, *data_flags(data), *flags]

    def plain_test(sequences: int, times: dict) -> float:
        return times["start"] + sequences * size.frames * (times["load"] + times["predict"] + times["gifs"])

    def plain_train(times: dict) -> float:  # of the validation it writes the prediction's GIF only
        validation = size.frames * (times["load"] + times["predict"] + times["gifs"] / 3)
        return times["start"] + trained * times["train"] + validation

    def trainer_ends(steps: int) -> tuple[str, ...]:
        return ("Everything is written to", f" {steps}/{steps} steps", "validation PSNR")

    return [
        Case("Tester.py, six sequences", test(six), TESTER_ENDS, plain=partial(plain_test, 6)),
        Case("Tester.py, one sequence", test(one), TESTER_ENDS, plain=partial(plain_test, 1)),
        Case("Tester.py, six, --pictures none", test(six, "--pictures", "none"), TESTER_ENDS),
        Case("Tester.py, one, --pictures none", test(one, "--pictures", "none"), TESTER_ENDS),
        Case(f"Trainer.py, {size.steps} steps and a validation", [*train, "--epoch_steps", size.steps],
             trainer_ends(size.steps), plain=plain_train),
        Case("Tester.py, to the first predicted frame", test(short, "--pictures", "none"), TESTER_ENDS[:2],
             whole=False),
        Case("Trainer.py, to the end of the first step", [*train, "--epoch_steps", 1, "--pictures", "none"],
             trainer_ends(1)[:2], whole=False),
        Case("Tester.py --help", ["Tester.py", "--help"]),
        Case("Trainer.py --help", ["Trainer.py", "--help"]),
    ]


def data_flags(data: Path) -> list:
    return ["--DR", data, "--cache_dir", data / "cache"]


def measure(case: Case, folder: Path) -> dict:
    """Run a case in a new folder: its seconds, those of its stages, and of a Tester what it wrote."""
    out = folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    done = launch(*case.command, "--save_root", out, words=case.ends)
    moments = [0.0, *(done.moments[words] for words in case.ends), *([done.seconds] if case.whole else [])]
    stages = [end - begin for begin, end in zip(moments, moments[1:], strict=False)] if case.ends else []
    sample = {"seconds": moments[-1]} | dict(zip(STAGES, stages, strict=False))
    if case.command[0] == "Tester.py" and case.whole and case.ends:
        metrics = read_json(out / "metrics.json")
        folders = [out / f"seq{sequence['name']}" for sequence in metrics["sequences"]]
        sample |= {"prediction": metrics["seconds"], "ratio": moments[-1] / metrics["seconds"],
                   "megabytes": sum(map(megabytes, folders)) / len(folders)}
    return sample


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def measure_plain(data: Path, folder: Path, size: Size) -> dict[str, float]:
    """Run plain_program.py; "start" is what of its wall-clock was not work."""
    done = launch("scripts/plain_program.py", data, folder / "plain", size.plain_frames, size.plain_steps)
    times = json.loads(done.text.strip().splitlines()[-1])
    return times | {"start": done.seconds - times["work"]}


def file_kinds(folder: Path, psnr: list[float]) -> dict[str, Callable[[Path], object]]:
    """What draws each kind of file of a sequence that the Tester left in `folder`."""
    with np.load(folder / "frames.npz") as arrays:
        film = PredictedSequence("0", arrays["prediction"], arrays["pose"], arrays["truth"], psnr)
    return {
        "frames.npz": partial(write_frames, predicted=film), "pred_seq.gif": partial(save_gif, images=film.prediction),
        "pose.gif": partial(save_gif, images=film.pose), "ground_truth.gif": partial(save_gif, images=film.truth),
        "panel.png": partial(write_strip, predicted=film), "panel.mp4": partial(write_video, predicted=film),
        "psnr_per_frame.png": lambda path: draw_scores({"0": psnr}, path, "sequence"),
    }


def measure_file(name: str, write: Callable[[Path], object], folder: Path) -> dict:
    """Seconds on one core, also of ffmpeg, and megabytes."""
    out, cores = folder / "file", os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    shutil.rmtree(out, ignore_errors=True)
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    try:
        begin = time.perf_counter()
        problem = write(out / name)
        seconds = time.perf_counter() - begin
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
    if problem:
        print(f"warning: {problem}", file=sys.stderr)
    return {"seconds": seconds, "megabytes": megabytes(out)}


def medians(samples: list[dict]) -> dict[str, float]:
    return {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}


def benchmark(folder: Path, size: Size) -> tuple[list[dict], dict[str, float]]:
    """A row for every program and kind of file, and the reference's times; all data and runs go to `folder`."""
    cases, six = make_cases(folder, size), folder / "6"
    for case in cases:
        if case.command[-1] == "none":  # untimed: decodes into the cache, compiles .pyc files
            measure(case, folder)
            if case.command[:-2] == cases[0].command:
                shutil.copytree(folder / "run", folder / "predicted")
    scores = read_json(folder / "predicted/metrics.json")["sequences"][0]
    files = file_kinds(folder / "predicted" / f"seq{scores['name']}", scores["psnr_per_frame"])
    for name, write in files.items():
        measure_file(name, write, folder)
    samples, plain = {}, []
    for _ in followed(range(size.rounds), "measuring", size.rounds, "round"):
        for case in cases:
            samples.setdefault(case.name, []).append(measure(case, folder))
        plain.append(measure_plain(six, folder, size))
        for name, write in files.items():
            samples.setdefault(f"one thread: {name}", []).append(measure_file(name, write, folder))
    rows, times = [{"name": name} | medians(values) for name, values in samples.items()], medians(plain)  # cases first
    for case, row in zip(cases, rows, strict=False):
        if case.plain:
            row["plain"] = case.plain(times)
            row["times"] = row["plain"] / row["seconds"]
    return rows, times


def write(out: Path, result: dict) -> None:
    """OUT.json, OUT.md, OUT.png, and the table on stdout."""
    columns = {"name": "", "seconds": "seconds", **{stage: stage for stage in STAGES}, "ratio": "whole / prediction",
               "megabytes": "MB a sequence", "plain": "plain reference, s (scaled)", "times": "x"}
    rows = [list(columns.values())]
    for row in result["rows"]:
        rows.append([row["name"], *(number(row.get(key)) for key in list(columns)[1:])])
    size = result["size"]
    text = to_markdown(rows) + (
        f"\nSeconds, medians of {size['rounds']} rounds; sequences of {size['frames']} predicted frames. The plain "
        f"reference is timed on {size['plain_frames']} frames of one sequence and {size['plain_steps']} steps, and "
        "scaled.\n"
    )
    write_json(out.with_name(out.name + ".json"), result)
    write_text(out.with_name(out.name + ".md"), text)
    draw_bars(result["rows"], out.with_name(out.name + ".png"))
    print(text)


def number(value: float | None) -> str:
    """Three digits; empty where there is none."""
    return "" if value is None else f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def draw_bars(rows: list[dict], path: Path) -> None:
    """Bars, on a logarithmic axis: seconds of every program and kind of file, and of the reference where it has any."""
    figure, (axis,) = new_figure(size=(6, 0.28 * len(rows) + 1))
    plain = [i for i, row in enumerate(rows) if "plain" in row]
    for places, values, color, label in (
        ([i - 0.2 * (i in plain) for i in range(len(rows))], [row["seconds"] for row in rows], BLUE, "this program"),
        ([i + 0.2 for i in plain], [rows[i]["plain"] for i in plain], ORANGE, "plain reference, scaled"),
    ):
        bars = axis.barh(places, values, 0.36, color=color, label=label)
        axis.bar_label(bars, labels=[number(value) for value in values], padding=2, fontsize=7)
    axis.set(xscale="log", yticks=range(len(rows)), yticklabels=[row["name"] for row in rows], xlabel="seconds")
    axis.set_xlim(right=1.6 * axis.get_xlim()[1])  # room for the last number
    axis.margins(y=0.01)
    axis.invert_yaxis()
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/programs", help="path of the JSON, Markdown and PNG, without ending")
    parser.add_argument("--quick", action="store_true", help="one round, short sequences, ten training steps")
    parser.add_argument("--rounds", type=int, help=f"default: {FULL.rounds}, and {QUICK.rounds} with --quick")
    args = parser.parse_args()
    size = QUICK if args.quick else FULL
    size = size._replace(rounds=args.rounds or size.rounds)
    device = pick_device(None)
    with tempfile.TemporaryDirectory() as folder:
        rows, times = benchmark(Path(folder), size)
    environment = describe_environment(device, pick_precision("auto", device))
    write(Path(args.out), {"environment": environment, "size": size._asdict(), "rows": rows, "plain": times})


if __name__ == "__main__":
    run_program(main)
