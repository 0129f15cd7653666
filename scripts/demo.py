"""From nothing to predicted videos: python scripts/demo.py [--pretrained] [DR]

Installs the requirements, draws the project's own data set (or uses the data set DR), trains 1,000 steps, predicts and
scores the test sequences, and names the images to look at. The same command again resumes the training.
VENV=path names an environment, PYTHON=path the interpreter that makes one, RUN=path the folder of the run, SEED=n the
seed.
"""

import argparse
import os
from pathlib import Path

from environment import ROOT, call, full_path, make_environment

MODEL = "docs/pretrained/dancer.ckpt"
TRAINING = ["--num_epoch", "4", "--epoch_steps", "250", "--val_every", "2"]
IMAGES = ("figures/loss_curve.png", "figures/val_psnr.png", "figures/psnr_per_frame.png", "test/seq*/panel.png",
          "test/seq*/panel.mp4", "test/seq*/pred_seq.gif")


def main():
    parser = argparse.ArgumentParser(description="From nothing to predicted videos.")
    parser.add_argument("DR", nargs="?", help="a data set in the course's layout (default: one is drawn)")
    parser.add_argument("--pretrained", action="store_true", help="predict with the project's model, without training")
    args = parser.parse_args()
    data = full_path(args.DR) if args.DR else Path("data/dancer")
    name = f"demo-pretrained-{data.name}" if args.pretrained else f"demo-{data.name}"
    run = full_path(os.environ["RUN"]) if os.environ.get("RUN") else Path("runs") / name

    python = make_environment()
    if not args.DR and not (ROOT / data).is_dir():
        call(python, "scripts/make_dataset.py", data)
    if not args.pretrained:
        seed = os.environ.get("SEED") or 0
        call(python, "Trainer.py", "--DR", data, "--save_root", run, "--seed", seed, *TRAINING)
    checkpoint = MODEL if args.pretrained else run / "best.ckpt"
    call(python, "Tester.py", "--DR", data, "--save_root", run / "test", "--ckpt_path", checkpoint)

    print("\nLook at:")
    for pattern in IMAGES:
        for image in sorted((ROOT / run).glob(pattern)):
            print(f"  {run / image.relative_to(ROOT / run)}")


if __name__ == "__main__":
    main()
