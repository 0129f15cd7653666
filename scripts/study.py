"""Compare recipes of training: train and test every recipe with every seed, then write tables and overlaid curves.

    python scripts/study.py kl --DR LAB4_Dataset --save_root runs/kl --seeds 0 1 2
    python scripts/study.py own --recipe slow="--lr 1e-3" --recipe fast="--lr 5e-3" --DR DATA --save_root runs/lr
    python scripts/study.py latent --ckpt_path runs/a/best.ckpt runs/b/best.ckpt --DR DATA --save_root runs/latent

A recipe is a named set of Trainer.py's flags. Other flags are given to Trainer.py for every recipe (--num_epoch 5,
--device cpu, …). The same command again resumes. The runs are written to <save_root>/<recipe>/seed<k>; the tables psnr,
cost, latent and, for data with a ribbon, ribbon (Markdown and CSV) and the overlaid curves to <save_root>.
"""

import argparse
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dataloader import Dataset_Dance
from modules.device import pick_device, pick_precision
from modules.files import read_json, to_csv, to_markdown, write_json, write_text
from modules.model.checkpoint import load_checkpoint, model_from_checkpoint
from modules.options import parse_trainer
from modules.runtime import InputError, on_signal, run_program
from modules.score.latent import latent_use
from modules.score.ribbon import ribbon_use
from modules.show.curves import draw_curves
from modules.show.runs import Run, best_validation, read_run

STUDIES = {  # name -> flags of every recipe, which the command line may replace, and flags of each recipe by its name
    "kl": ("--preset report",
           {kind: f"--kl_anneal_type {kind}" for kind in ("Cyclical", "Monotonic", "None", "Constant")}),
    "sizes": ("--num_epoch 16 --epoch_steps 250 --val_every 8 --pictures none",
              {f"{height}x{width}": f"--frame_H {height} --frame_W {width}"
               for height, width in ((32, 64), (64, 64), (64, 128), (128, 256))}),
    "to_score": ("--num_epoch 1 --pictures none",
                 {steps: f"--epoch_steps {steps}" for steps in ("60", "120", "250", "620")}
                 | {"1400_of_32": "--epoch_steps 1400 --batch_size 32 --lr 7e-3 --warmup_steps 25"}),
    "ribbon": ("--F_dim 48 --L_dim 80 --D_out_dim 80 --num_epoch 20 --epoch_steps 40 --val_every 20 --val_vi_len 300",
               {"map": "--prior standard --kl_beta 1e4", "standard": "--prior standard", "x_1": "",
                "true_last": "--last_frame previous", "recursive": "--preset recursive"}),
    "own": ("", {}),
}
LATENT = ("kl", "active", "units", "psnr_posterior", "psnr_prior", "gain", "psnr_sample", "psnr_best_sample",
          "diversity", "change_sample", "change_truth", "bound")  # columns, see `latent_use`
FREE = ("save_root", "DR", "device", "num_workers", "cache_dir", "pictures")  # flags that may differ between runs


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("study.py", description=__doc__.splitlines()[0], allow_abbrev=False,
                                     epilog="Other flags are given to Trainer.py for every recipe.")
    parser.add_argument("study", choices=(*STUDIES, "latent"),
                        help="what to compare; own: only recipes of --recipe; latent: only measure checkpoints")
    parser.add_argument("--ckpt_path", nargs="+", metavar="CKPT", help="of latent: the checkpoints to measure")
    parser.add_argument("--DR", required=True, help="data set: the folder that holds train/, val/ and test/")
    parser.add_argument("--save_root", required=True, help="folder of the study")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run per recipe and seed (default: 0)")
    parser.add_argument("--recipe", action="append", default=[], metavar='NAME="FLAGS"', help="add a recipe")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="leave out the other recipes")
    args, others = parser.parse_known_args(argv)
    root = Path(args.save_root)
    if (args.study == "latent") != bool(args.ckpt_path):
        raise InputError("expected --ckpt_path with latent, and only there")
    if args.ckpt_path:
        flags = parse_trainer(["--DR", args.DR, "--save_root", args.save_root, *others])
        return write_measures(root, {path: [measure(Path(path), flags)] for path in args.ckpt_path})
    (common, recipes), runs = STUDIES[args.study], {}
    recipes = recipes | dict(map(parse_recipe, args.recipe))
    chosen = args.only or list(recipes)
    if not chosen or not set(chosen) <= set(recipes):
        raise InputError(f"recipes {', '.join(chosen) or 'none'}: expected some of {', '.join(recipes) or '--recipe'}")
    for seed in args.seeds:  # seed after seed, so that a study cut short still compares all recipes
        for name in chosen:
            place = ["--DR", args.DR, "--save_root", str(root / name / f"seed{seed}")]
            own = [*shlex.split(recipes[name]), "--seed", str(seed)]
            runs[name, seed] = check_run([*common.split(), *place], others, own)
    for (name, seed), (flags, settings) in runs.items():
        train_and_test(f"{name}, seed {seed}", flags, settings)
    done = {name: [read_run(root / name / f"seed{seed}") for seed in args.seeds] for name in chosen}
    write_results(root, done)


def parse_recipe(text: str) -> tuple[str, str]:
    """NAME=FLAGS as (name, flags)."""
    name, equals, flags = text.partition("=")
    if not equals or not re.fullmatch(r"\w[\w.+-]*", name):
        raise InputError(f'--recipe {text}: expected NAME="FLAGS", with a name of letters, digits, dots and dashes')
    return name, flags


def check_run(common: list[str], others: list[str], own: list[str]) -> tuple[list[str], argparse.Namespace]:
    """The flags of a run: as a command line, and parsed. InputError if the command line sets what the study varies, or
    if the folder holds a run with other flags, which cannot be compared."""
    flags = [*common, *others, *own]
    args, swapped = parse_trainer(flags), parse_trainer([*common, *own, *others])
    if varied := [name for name, value in vars(swapped).items() if vars(args)[name] != value]:
        raise InputError(f"--{varied[0]}: the study varies it; expected --seeds, or another --recipe")
    folder = Path(args.save_root)
    known = read_run(folder).settings if (folder / "metrics.csv").is_file() else {}
    for name, value in vars(args).items():
        if name in known and known[name] != value and name not in FREE:
            raise InputError(f"{folder}: trained with --{name} {known[name]}, this study has {value}; expected the "
                             "same flags, or another --save_root")
    return flags, args


def train_and_test(title: str, flags: list[str], args: argparse.Namespace) -> None:
    """Train, test and measure one run. What is done already is not repeated."""
    folder = Path(args.save_root)
    done = len(read_run(folder).history) if (folder / "metrics.csv").is_file() else 0
    best, scores, measures = folder / "best.ckpt", folder / "test" / "metrics.json", folder / "measures.json"
    if done < args.num_epoch:
        print(f"== {title}: training, {done} of {args.num_epoch} epochs are done ==", flush=True)
        call("Trainer.py", *flags)
    if not is_newer(scores, best):
        print(f"== {title}: testing ==", flush=True)
        names = ("device", "precision", "num_workers", "cache_dir", "pictures")
        machine = [f"--{name}={vars(args)[name]}" for name in names if vars(args)[name] is not None]
        machine += ["--skip_bad"] * args.skip_bad
        call("Tester.py", "--DR", args.DR, "--save_root", folder / "test", "--ckpt_path", best, *machine)
    if not is_newer(measures, best):
        write_json(measures, measure(best, args))


def is_newer(path: Path, other: Path) -> bool:
    return path.is_file() and path.stat().st_mtime >= other.stat().st_mtime


def call(program: str, *arguments) -> None:
    """Run Trainer.py or Tester.py, which print their own errors. InputError where it fails; a signal ends it, and then
    this program."""
    signals = []

    def pass_on(number: int, _frame: object) -> None:
        signals.append(number)
        if number != signal.SIGINT:  # Ctrl-C reaches it without help
            process.send_signal(number)

    process = subprocess.Popen([sys.executable, str(ROOT / program), *map(str, arguments)])
    with on_signal(pass_on):
        code = process.wait()
    if signals:
        raise SystemExit(128 + signals[0])
    if code:
        raise InputError(f"{program} ended with code {code}, see above; the same command again resumes from here")


def measure(checkpoint: Path, args: argparse.Namespace) -> dict[str, dict]:
    """`latent_use` of the first validation sequence, parameters, and `ribbon_use` where the data have a ribbon."""
    model, size = model_from_checkpoint(load_checkpoint(checkpoint), checkpoint)
    options = {"val_vi_len": args.val_vi_len, "cache_dir": args.cache_dir, "skip_bad": args.skip_bad}
    data = Dataset_Dance(args.DR, "val", *size, **options)
    device, ribbon = pick_device(args.device), Path(args.DR, "ribbon.json")
    dtype = pick_precision(args.precision, device)
    use = latent_use(model.to(device), data.sequences[0], dtype)
    latent = {key: use[key] for key in LATENT} | {"parameters": sum(p.numel() for p in model.parameters())}
    shown = ribbon_use(model, data.sequences, read_json(ribbon), dtype) if ribbon.is_file() else None
    return {"latent": latent, "ribbon": shown}


def write_results(root: Path, runs: dict[str, list[Run]]) -> None:
    """All tables and figures. runs: recipe -> its runs, one per seed."""
    uses = {name: [read_json(run.folder / "measures.json") for run in seeds] for name, seeds in runs.items()}
    write_table(root / "psnr", make_table({name: list(map(score_columns, seeds)) for name, seeds in runs.items()}))
    write_table(root / "cost", make_table({name: list(map(cost_columns, seeds)) for name, seeds in runs.items()}))
    write_measures(root, uses)
    print("PSNR in dB with z the prior's mean; mean ± standard deviation over the seeds.")
    for path in draw_curves([mean_run(name, seeds) for name, seeds in runs.items()], root / "curves"):
        print(f"Wrote {path}")


def write_measures(root: Path, uses: dict[str, list[dict]]) -> None:
    """The table latent and, where the data have a ribbon, the table ribbon. uses: recipe -> `measure` of its runs."""
    write_table(root / "latent", make_table({name: [use["latent"] for use in seeds] for name, seeds in uses.items()}))
    if ribbon := next(iter(uses.values()))[0]["ribbon"]:
        samples = {name: [use["ribbon"]["samples"] for use in seeds] for name, seeds in uses.items()}
        write_table(root / "ribbon", make_table({"truth": [ribbon["truth"]]} | samples))


def score_columns(run: Run) -> dict[str, float | None]:
    """PSNR in dB of the Tester's sequences with true frames and of the validation; nan where the model diverged."""
    scored = [s for s in run.test["sequences"] if s["psnr_per_frame"] is not None]
    psnr = {f"sequence {s['name']}": float("nan") if s["psnr"] is None else s["psnr"] for s in scored}
    best = best_validation(run.history)
    nearest = [s.get("baselines", {}).get("nearest_pose", {}).get("psnr") for s in scored]
    if scored:
        psnr["average"] = float(np.mean(list(psnr.values())))
        psnr["nearest pose"] = None if None in nearest else np.mean(nearest)
    return psnr | {"validation": best and best[1]}


def cost_columns(run: Run) -> dict[str, float]:
    """Seconds of training with its validations, and the speed of training and prediction in frames/s."""
    predicted = sum(sequence["frames"] - 1 for sequence in run.test["sequences"])
    return {
        "training, s": sum(row["seconds"] for row in run.history),
        "training, frames/s": np.mean([row["frames_per_second"] for row in run.history]),
        "prediction, frames/s": predicted / run.test["seconds"],
    }


def make_table(measured: dict[str, list[dict]]) -> list[list[str]]:
    """Header and a row per recipe. measured: recipe -> the columns of each of its runs."""
    names = list(next(iter(measured.values()))[0])
    return [["recipe", *names, "seeds"], *(
        [recipe, *(cell([seed[name] for seed in seeds]) for name in names), str(len(seeds))]
        for recipe, seeds in measured.items())]


def cell(values: list) -> str:
    """"mean ± sample standard deviation"; the mean alone of one value; empty where a value is unknown."""
    if None in values:
        return ""
    digits = 0 if isinstance(values[0], int) else 2
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def write_table(path: Path, rows: list[list[str]]) -> None:
    """PATH.md, PATH.csv, and the table on stdout."""
    for ending, text in ((".md", to_markdown(rows)), (".csv", to_csv(rows))):
        write_text(path.with_name(path.name + ending), text)
    print(f"\n{to_markdown(rows)}")


def mean_run(name: str, runs: list[Run]) -> Run:
    """The seeds of one recipe as one run for the curves: means over the seeds, the test scores of all seeds."""
    history = []
    for rows in zip(*(run.history for run in runs), strict=False):  # as many epochs as all seeds have
        known = {key: [row[key] for row in rows if row.get(key) is not None] for key in rows[0]}
        history.append({key: float(np.mean(values)) if values else None for key, values in known.items()})
    scores = {f"{i}/{key}": values for i, run in enumerate(runs) for key, values in run.scores.items()}
    return runs[0]._replace(name=name if len(runs) == 1 else f"{name}, {len(runs)} seeds", history=history,
                            scores=scores)


if __name__ == "__main__":
    run_program(main)
