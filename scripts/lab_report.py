"""Make the figures and numbers of the lab's report: train and test the sheet's settings of KL annealing, on one page.

    python scripts/lab_report.py --DR LAB4_Dataset --save_root runs/lab --preset course

The settings are Cyclical, Monotonic and Constant: beta 1 throughout, which most students call "without KL annealing".
They are a study of study.py with one page more, <save_root>/report.html. The same command again continues.
"""

import argparse
import html
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import report
import study
from analyse import write_analysis

import Tester
import Trainer
from modules.files import read_json, write_text
from modules.model.layers import gaussian_kl, reparameterise
from modules.model.vae import VAE_Model, frame_loss
from modules.options import parse_tester
from modules.runtime import run_program
from modules.score.predict import generate, predict
from modules.show.curves import draw_curves
from modules.show.runs import Run, best_validation, read_run
from modules.train.schedules import frange_cycle_linear, kl_annealing, teacher_forcing_ratio

SETTINGS = ("Cyclical", "Monotonic", "Constant")
LOSSES = {"mse": "mse + &beta; KL", "calibrated": "log(mse) + (2/D) &beta; KL with D = 3 H W"}
CODE = {  # place in the page -> where the program does it
    "training": (Trainer.Trainer.train_epoch, Trainer.Trainer.step, frame_loss, VAE_Model.step),
    "testing": (Tester.main, predict, generate), "reparameterisation": (reparameterise, gaussian_kl),
    "forcing": (teacher_forcing_ratio, VAE_Model.rollout), "annealing": (kl_annealing, frange_cycle_linear),
}


def main() -> None:
    parser = argparse.ArgumentParser("lab_report.py", description=__doc__.splitlines()[0], allow_abbrev=False,
                                     epilog="Other flags are those of Trainer.py: --preset, --num_epoch, --device, …")
    parser.add_argument("--DR", required=True, help="data set: the folder that holds train/, val/ and test/")
    parser.add_argument("--save_root", required=True, help="folder that everything is written to")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    parser.add_argument("--zero_beta", action="store_true", help="also train with beta 0 (--kl_anneal_type None)")
    args, others = parser.parse_known_args()
    root, settings = Path(args.save_root), [*SETTINGS, *["None"] * args.zero_beta]
    place = ["--DR", args.DR, "--save_root", args.save_root, "--seeds", str(args.seed)]
    study.main(["kl", *place, "--only", *settings, *others])
    runs = {name: read_run(root / name / f"seed{args.seed}", name=name) for name in settings}
    best = max(runs.values(), key=lambda run: best_validation(run.history)[1])
    explained = best.folder / "analysis" / "analysis.json"
    if not study.is_newer(explained, best.folder / "best.ckpt"):
        flags = {name: best.settings.get(name) for name in ("device", "precision", "cache_dir", "val_vi_len")}
        flags |= {"DR": args.DR, "save_root": explained.parent, "ckpt_path": best.folder / "best.ckpt"}
        words = [f"--{name}={value}" for name, value in flags.items() if value]
        words += ["--skip_bad"] * best.settings.get("skip_bad", False)
        write_analysis(parse_tester(words), "val", most=1)
    draw_curves(list(runs.values()), root / "curves", "pdf")  # the study has written them as PNG
    write_text(root / "report.html", build_page(root, runs, best, read_json(explained)[0]))
    print(f"Wrote {root / 'report.html'}")


def build_page(root: Path, runs: dict[str, Run], best: Run, explained: dict) -> str:
    """The whole page as text. best: the run that is explained."""
    folder, gifs = best.folder / "analysis", sorted(best.test_folder.glob("seq*/pred_seq.gif"))
    parts = {f"code_{place}": "".join(map(quote, functions)) for place, functions in CODE.items()}
    means, correlations, *worst = map(html.escape, explained["text"])
    parts |= {path.stem: image(path) for path in (root / "curves").glob("*.png")} | {
        "flags": report.definition_list(best.settings), "best": best.name, "loss": LOSSES[best.settings["loss"]],
        "blocks": "".join(f"<h3>{name}</h3><pre>{Tester.result_block(run.test)}</pre>"
                          for name, run in runs.items() if run.test["avg_psnr"] is not None),
        "scores": table(root / "psnr.csv"), "latent": table(root / "latent.csv"),
        "baselines": report.score_table(best.test), "gif": "".join(map(image, gifs[:1])),
        "analysis": f"<p>{means} {correlations}</p>{image(folder / (explained['name'] + '.png'))}",
        "worst": "".join(f"<li>{text}{image(folder / name)}</li>"
                         for text, name in zip(worst, explained["images"], strict=True)),
    }
    template = (Path(__file__).parent / "lab_template.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts.get(place[1], ""), template)


def table(path: Path) -> str:
    """A table of study.py as HTML."""
    rows = html.escape(path.read_text(encoding="utf-8")).replace(",", "</td><td>").splitlines()
    return f'<div class="scroll"><table>{"".join(f"<tr><td>{row}</td></tr>" for row in rows)}</table></div>'


def image(path: Path) -> str:
    """An image file inside the page."""
    source = report.data_url(f"image/{path.suffix[1:]}", path.read_bytes())
    return f'<img src="{source}" alt="{html.escape(path.stem)}">'


def quote(function: Callable) -> str:
    """Where a function is, as a link, and its code."""
    function = inspect.unwrap(function)
    (lines, begin), path = inspect.getsourcelines(function), Path(inspect.getsourcefile(function))
    name = f"{path.relative_to(study.ROOT).as_posix()}, line {begin}: {function.__qualname__}"
    return (f'<details><summary><a href="{path.as_uri()}">{name}</a></summary>'
            f"<pre>{html.escape(inspect.cleandoc(''.join(lines)))}</pre></details>")


if __name__ == "__main__":
    run_program(main)
