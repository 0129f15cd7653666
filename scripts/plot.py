"""Draw the curves of finished or running runs from their files.

    python scripts/plot.py runs/best                                  -> runs/best/curves/*.png
    python scripts/plot.py runs/a runs/b --out figures --format pdf   several runs over each other
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from modules.runtime import InputError, run_program
from modules.show.curves import draw_curves
from modules.show.runs import read_run


def main() -> None:
    parser = argparse.ArgumentParser("plot.py", description="Curves from run folders; several runs overlay.")
    parser.add_argument("run", nargs="+", help="a folder that Trainer.py wrote")
    parser.add_argument("--out", help="folder for the figures (default for one run: RUN/curves)")
    parser.add_argument("--names", nargs="+", help="a name per run for the legend (default: the folders)")
    parser.add_argument("--format", choices=("png", "pdf", "svg"), default="png", help="file format (default: png)")
    args = parser.parse_args()
    if len(args.run) > 1 and not args.out:
        raise InputError("several runs need --out: the folder that their figures are written to")
    if args.names and len(args.names) != len(args.run):
        raise InputError(f"--names: {len(args.names)} names for {len(args.run)} runs; expected one each")
    names = args.names or (args.run if len(args.run) > 1 else [None])  # None: the folder's own name
    runs = []
    for folder, name in zip(args.run, names, strict=True):
        try:
            runs.append(read_run(folder, name=name))
        except InputError as error:
            if not runs and folder == args.run[-1]:
                raise
            print(f"warning: left out: {error}", file=sys.stderr)
    for path in draw_curves(runs, Path(args.out or Path(args.run[0]) / "curves"), args.format):
        print(f"Wrote {path}")
    for run in runs:
        if not run.scores:
            print(f"{run.name}: no PSNR per frame; a validation of Trainer.py or Tester.py with true frames writes it")


if __name__ == "__main__":
    run_program(main)
