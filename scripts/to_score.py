"""Measure how long training takes until the validation reaches a score: every recipe of RECIPES with every seed.

    python scripts/to_score.py --DR DATA --out docs/images/to_score --keep runs/to_score --seeds 0 1 2

A run is one epoch, its schedules made for that length, validated at its end, then Tester.py on the held-out sequences.
Seconds of training are those of the epoch's steps, from a warm cache; the whole program's are beside them. With --keep
the same command again goes on where it stopped, and does again only what has another recipe or other data.
"""

import argparse
import contextlib
import shlex
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from benchmark_programs import launch
from compare_kl import mean_and_deviation

from modules.device import pick_device, pick_precision
from modules.files import read_json, to_markdown, write_json, write_text
from modules.options import parse_trainer
from modules.runtime import InputError, run_program
from modules.show.curves import BLUE, ORANGE, new_figure, save_figure
from modules.show.runs import read_history
from modules.train.history import describe_environment, read_commit

LARGE = "--batch_size 32 --lr 7e-3 --warmup_steps 25"  # a fifth more frames a second
RECIPES = {  # PSNR of the validation in dB -> flags of Trainer.py whose one epoch is to reach it
    28.66: "--epoch_steps 100 --posterior_share 0.25 --prior standard --weight_decay 0.1",  # the report's best
    36.0: "--epoch_steps 620",
    38.4: f"--epoch_steps 1400 {LARGE}",  # the best public score
}
COMMON = ["--num_epoch", "1", "--val_every", "1", "--pictures", "none", "--precision", "auto"]


def run_recipe(target: float, seed: int, data: Path, folder: Path, warm_up: bool) -> dict:
    """Train and test one run in `folder`, unless its result lies there. warm_up: the cache may not be warm."""
    path, recipe = folder / "result.json", RECIPES[target]
    wanted = {"target": target, "seed": seed, "recipe": recipe, "data": str(data)}
    if path.is_file():
        known = read_json(path)
        if wanted.items() <= known.items():
            return known
    flags = ["--DR", str(data), *COMMON, *shlex.split(recipe), "--seed", str(seed)]
    args = parse_trainer([*flags, "--save_root", str(folder)])
    if not args.epoch_steps or args.num_epoch != 1:
        raise InputError(f"{target} dB: {recipe}: expected a recipe of one epoch with --epoch_steps")
    if warm_up:
        with tempfile.TemporaryDirectory() as other:
            launch("Trainer.py", *flags, "--epoch_steps", 1, "--save_root", other)
    print(f"== {target} dB, seed {seed}: {recipe} ==", flush=True)
    done = launch("Trainer.py", *flags, "--save_root", folder, "--overwrite")
    row = read_history(folder / "metrics.csv")[-1]
    launch("Tester.py", "--DR", data, "--ckpt_path", folder / "best.ckpt", "--save_root", folder / "test",
           "--pictures", "none", "--no_baselines")
    tested = read_json(folder / "test/metrics.json")["sequences"]
    frames = args.epoch_steps * args.batch_size * (args.train_vi_len - 1)  # predicted in training
    result = wanted | {
        "train_seconds": frames / row["frames_per_second"], "program_seconds": done.seconds,
        "val_psnr": row["val_psnr"], "test_psnr": {s["name"]: s["psnr"] for s in tested if s["psnr"] is not None},
        "commit": read_commit(),
    }
    write_json(path, result)
    return result


def make_table(runs: list[dict]) -> list[list[str]]:
    """Header and a row per target: mean ± standard deviation over the seeds."""
    names = list(runs[0]["test_psnr"])
    rows = [["target, dB", "recipe", "training, s", "whole program, s", "validation, dB",
             *(f"test {name}, dB" for name in names), "reached"]]
    for target in sorted({run["target"] for run in runs}):
        seeds = [run for run in runs if run["target"] == target]
        cells = [mean_and_deviation([run[key] for run in seeds], digits)
                 for key, digits in (("train_seconds", 1), ("program_seconds", 1), ("val_psnr", 2))]
        cells += [mean_and_deviation([run["test_psnr"][name] for run in seeds]) for name in names]
        reached = sum(run["val_psnr"] >= target for run in seeds)
        rows.append([f"{target:g}", f"`{seeds[0]['recipe']}`", *cells, f"{reached} of {len(seeds)}"])
    return rows


def draw_runs(runs: list[dict], path: Path) -> None:
    """PSNR over seconds of training on a logarithmic axis, two dots a run; lines at the targets."""
    figure, (axis,) = new_figure(size=(5, 3))
    from matplotlib.ticker import LogFormatter

    seconds = [run["train_seconds"] for run in runs]
    axis.scatter(seconds, [run["val_psnr"] for run in runs], 16, BLUE, label="validation", zorder=3)
    tested = [run for run in runs if run["test_psnr"]]
    means = [sum(run["test_psnr"].values()) / len(run["test_psnr"]) for run in tested]
    if tested:
        seconds_tested = [run["train_seconds"] for run in tested]
        axis.scatter(seconds_tested, means, 16, ORANGE, marker="^", label="held out", zorder=3)
    targets = sorted({run["target"] for run in runs})
    for target in targets:
        axis.axhline(target, color="0.4", linestyle=":", linewidth=1, zorder=1)
    axis.set(xscale="log", xlabel="seconds of training", ylabel="PSNR (dB)", title="Time to a score, one dot per run")
    axis.xaxis.set_major_formatter(LogFormatter())  # 20, not 2 x 10^1
    axis.xaxis.set_minor_formatter(LogFormatter())
    axis.margins(y=0.12)
    axis.set_xlim(left=min(seconds) / 1.5, right=max(seconds) * 1.5)
    low, high = axis.get_ylim()
    place = low
    for target in targets:  # right of the axes, each at its line, or above the one before where they would overlap
        place = max(target, place + 0.07 * (high - low)) if place > low else target
        axis.annotate(f"{target:g}", (1.01, place), xycoords=("axes fraction", "data"), fontsize=7, color="0.3",
                      va="center", annotation_clip=False)
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    save_figure(figure, path)


def write(out: Path, result: dict) -> None:
    """OUT.json, OUT.md, OUT.png, and the table on stdout."""
    text = to_markdown(make_table(result["runs"]))
    write_json(out.with_name(out.name + ".json"), result)
    write_text(out.with_name(out.name + ".md"), text)
    draw_runs(result["runs"], out.with_name(out.name + ".png"))
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--DR", required=True, help="data set: the folder that holds train/, val/ and test/")
    parser.add_argument("--out", default="runs/to_score", help="path of the JSON, Markdown and PNG, without ending")
    parser.add_argument("--keep", help="folder of the runs, to go on from there (default: they are deleted)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    args = parser.parse_args()
    data, runs, out = Path(args.DR).resolve(), [], Path(args.out)
    device = pick_device(None)
    environment = describe_environment(device, pick_precision("auto", device))
    with contextlib.ExitStack() as held:
        root = Path(args.keep or held.enter_context(tempfile.TemporaryDirectory()))
        for seed in args.seeds:  # seed after seed, so that what is cut short still has all targets
            for target in RECIPES:
                runs.append(run_recipe(target, seed, data, root / f"{target:g}dB_seed{seed}", warm_up=not runs))
            write(out, {"environment": environment, "runs": runs})


if __name__ == "__main__":
    run_program(main)
