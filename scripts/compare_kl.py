"""Repeat the study of KL annealing: Cyclical, Monotonic and None under one protocol, over several seeds.

    python scripts/compare_kl.py --DR LAB4_Dataset --save_root runs/study --preset report --seeds 0 1 2

Other flags go to Trainer.py (--num_epoch 5, --device cpu, …). The same command again goes on where it stopped. Writes
<save_root>/<strategy>/seed<k>, the runs, and psnr.md, psnr.csv, latent.md, latent.csv and the overlaid curves.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataloader import Dataset_Dance
from modules.device import pick_device, pick_precision
from modules.files import read_json, to_csv, to_markdown, write_json, write_text
from modules.model.checkpoint import load_checkpoint, model_from_checkpoint
from modules.options import PRESETS, parse_trainer
from modules.runtime import InputError, run_program
from modules.score.latent import latent_use
from modules.show.curves import draw_curves
from modules.show.runs import Run, read_run
from modules.train.resume import settings_of

ROOT = Path(__file__).resolve().parent.parent
STRATEGIES = ("Cyclical", "Monotonic", "None")
REPORT = {"Cyclical": 21.535, "Monotonic": 21.488, "None": 22.648}  # dB, the report's averages over its test sequences


def main() -> None:
    parser = argparse.ArgumentParser(
        "compare_kl.py", description="Cyclical, Monotonic and None under one protocol.", allow_abbrev=False,
        epilog="Other flags are given to Trainer.py.",
    )
    parser.add_argument("--DR", required=True, help="data set: the folder that holds train/, val/ and test/")
    parser.add_argument("--save_root", required=True, help="folder of the study")
    parser.add_argument("--preset", default="report", choices=tuple(PRESETS), help="the protocol (default: report)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run per strategy and seed (default: 0)")
    args, training = parser.parse_known_args()
    root = Path(args.save_root)
    flags = ["--DR", args.DR, "--preset", args.preset, *training]
    settings = settings_of(parse_trainer([*flags, "--save_root", "x"]))
    if "--seed" in training or "--kl_anneal_type" in training:
        raise InputError("--seed and --kl_anneal_type are what the study varies; use --seeds, and leave the type out")
    remember_protocol(root, settings)

    folders = {s: [root / s / f"seed{seed}" for seed in args.seeds] for s in STRATEGIES}
    for i, seed in enumerate(args.seeds):  # seed after seed, so that a study cut short still compares all strategies
        for strategy in STRATEGIES:
            train_and_test(folders[strategy][i], flags, strategy, seed, settings)
    write_results(root, args.DR, folders, settings)


def remember_protocol(root: Path, settings: dict) -> None:
    """Write the study's flags; InputError if the folder holds a study of other flags, whose runs can't be compared."""
    ignored = ("save_root", "DR", "device", "num_workers", "cache_dir", "kl_anneal_type", "seed")
    protocol = json.loads(json.dumps({key: value for key, value in settings.items() if key not in ignored}))
    path = root / "protocol.json"
    if path.is_file():
        known = read_json(path)
        for key in sorted(set(known) | set(protocol)):
            if known.get(key) != protocol.get(key):
                raise InputError(
                    f"{root}: holds a study with --{key} {known.get(key)}, this one has {protocol.get(key)}; "
                    "expected the same protocol, or another --save_root"
                )
    write_json(path, protocol)


def train_and_test(folder: Path, flags: list[str], strategy: str, seed: int, settings: dict) -> None:
    """Train and test one run, or what is left of it."""
    done = len(read_run(folder).history) if (folder / "metrics.csv").is_file() else 0
    if done < settings["num_epoch"]:
        print(f"== {strategy}, seed {seed}: {done} of {settings['num_epoch']} epochs done, training ==", flush=True)
        call("Trainer.py", *flags, "--save_root", folder, "--kl_anneal_type", strategy, "--seed", seed)
    best, scores = folder / "best.ckpt", folder / "test" / "metrics.json"
    if not scores.is_file() or scores.stat().st_mtime < best.stat().st_mtime:
        print(f"== {strategy}, seed {seed}: testing its best checkpoint ==", flush=True)
        machine = [part for key in ("device", "num_workers", "cache_dir") if settings[key] is not None
                   for part in (f"--{key}", settings[key])]
        call("Tester.py", "--DR", settings["DR"], "--save_root", folder / "test", "--ckpt_path", best, *machine)
    else:
        print(f"== {strategy}, seed {seed}: done before ==", flush=True)


def call(program: str, *arguments) -> None:
    """Run one of the two programs; its own message stands above ours where it fails."""
    code = subprocess.run([sys.executable, str(ROOT / program), *map(str, arguments)]).returncode
    if code:
        raise InputError(f"{program} ended with code {code}, see above; the same command again goes on from here")


def write_results(root: Path, data: str, folders: dict[str, list[Path]], settings: dict) -> None:
    """The tables, as Markdown and CSV, and the overlaid curves."""
    runs = {strategy: [read_run(folder) for folder in seeds] for strategy, seeds in folders.items()}
    scores = {strategy: [mean_psnr(run) for run in seeds] for strategy, seeds in runs.items()}
    uses = {strategy: [measure_latent(folder, data, settings) for folder in seeds]
            for strategy, seeds in folders.items()}
    for name, rows in (("psnr", study_table(scores)), ("latent", latent_table(uses))):
        for ending, text in (("md", to_markdown(rows)), ("csv", to_csv(rows))):
            write_text(root / f"{name}.{ending}", text)
        print(f"\n{to_markdown(rows)}")
    print("PSNR in dB, z the prior's mean, mean ± standard deviation over the seeds. The report's numbers are of the "
          "course's test sequences; latent: on the first validation sequence.")
    for path in draw_curves([mean_run(strategy, seeds) for strategy, seeds in runs.items()], root / "curves"):
        print(f"Wrote {path}")


def mean_psnr(run) -> dict[str, float]:
    """The Tester's mean PSNR of every sequence with true frames; nan where the model diverged."""
    scored = {s["name"]: float("nan") if s["psnr"] is None else s["psnr"]
              for s in run.test["sequences"] if s["psnr_per_frame"] is not None}
    if not scored:
        raise InputError(f"{run.test_folder}: no scores; the study needs the true frames of the test sequences")
    return scored


def measure_latent(folder: Path, data: str, settings: dict) -> dict:
    """`latent_use` of a run's best checkpoint on the first validation sequence; kept in latent.json."""
    path, checkpoint = folder / "latent.json", folder / "best.ckpt"
    if not path.is_file() or path.stat().st_mtime < checkpoint.stat().st_mtime:
        model, (height, width) = model_from_checkpoint(load_checkpoint(checkpoint), checkpoint)
        sequence = Dataset_Dance(data, "val", height, width, val_vi_len=settings["val_vi_len"],
                                 cache_dir=settings["cache_dir"]).sequences[0]
        device = pick_device(settings["device"])
        write_json(path, latent_use(model.to(device), sequence, pick_precision(settings["precision"], device)))
    return read_json(path)


def mean_and_deviation(values: list[float], digits: int = 2) -> str:
    """"mean ± sample standard deviation"; the value alone where there is only one."""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def study_table(scores: dict[str, list[dict[str, float]]]) -> list[list[str]]:
    """Header and a row per strategy. scores: strategy -> per seed {sequence: mean PSNR in dB}, all of one protocol."""
    sequences = list(next(iter(scores.values()))[0])
    rows = [["strategy", *(f"sequence {name}" for name in sequences), "average", "seeds", "the report's average"]]
    for strategy, seeds in scores.items():
        cells = [mean_and_deviation([seed[name] for seed in seeds]) for name in sequences]
        average = mean_and_deviation([float(np.mean(list(seed.values()))) for seed in seeds])
        rows.append([strategy, *cells, average, str(len(seeds)), f"{REPORT[strategy]:.3f}"])
    return rows


def latent_table(uses: dict[str, list[dict]]) -> list[list[str]]:
    """Header and a row per strategy. uses: strategy -> `latent_use` of each seed."""
    rows = [["strategy", "KL (nats a frame)", "active units", "of", "gain of posterior z (dB)", "cost of a sample (dB)",
             "its change (levels of 255)", "the truth's", "KL per dimension"]]
    for strategy, seeds in uses.items():
        per_dimension = np.mean([use["kl_per_dimension"] for use in seeds], axis=0)
        rows.append([
            strategy, mean_and_deviation([sum(use["kl_per_dimension"]) for use in seeds], 3),
            mean_and_deviation([use["active"] for use in seeds], 0), str(seeds[0]["units"]),
            mean_and_deviation([use["gain"] for use in seeds]),
            mean_and_deviation([use["psnr_prior"] - use["psnr_sample"] for use in seeds]),
            mean_and_deviation([use["change_sample"] for use in seeds]), f"{seeds[0]['change_truth']:.2f}",
            " ".join(f"{value:.3g}" for value in per_dimension),
        ])
    return rows


def mean_run(name: str, runs: list[Run]) -> Run:
    """Several seeds of one strategy as one run for the figures: its curves' means, the scores of all seeds."""
    epochs = min(len(run.history) for run in runs)
    history = []
    for rows in zip(*(run.history[:epochs] for run in runs), strict=True):
        known = {key: [row[key] for row in rows if row.get(key) is not None] for key in rows[0]}
        history.append({key: float(np.mean(values)) if values else None for key, values in known.items()})
    scores = {f"{i}/{key}": values for i, run in enumerate(runs) for key, values in run.scores.items()}
    title = name if len(runs) == 1 else f"{name}, {len(runs)} seeds"
    return Run(title, Path(), history, runs[0].settings, None, None, scores, runs[0].scored_on)


if __name__ == "__main__":
    run_program(main)
