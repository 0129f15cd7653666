"""From nothing to predicted videos: python scripts/demo.py [--pretrained] [DR]

Installs, draws the project's own data set (or uses the data set DR), trains for about ten minutes on two CPU cores,
predicts and scores the test sequences, and names the pictures to look at. Run again, it goes on where it stopped.
VENV=path reuses an environment, PYTHON names the interpreter to make one with, RUN=path names the folder of the run,
SEED=n the seed.
"""

import argparse
import os
from pathlib import Path

from environment import ROOT, call, from_here, make_environment

MODEL = "docs/pretrained/dancer.ckpt"
TRAINING = ["--num_epoch", "16", "--epoch_steps", "250", "--val_every", "8"]
PICTURES = ("figures/loss_curve.png", "figures/val_psnr.png", "figures/psnr_per_frame.png",
            "test/seq*/panel.png", "test/seq*/panel.mp4", "test/seq*/pred_seq.gif")


def main():
    parser = argparse.ArgumentParser(description="From nothing to predicted videos.")
    parser.add_argument("DR", nargs="?", help="a data set in the course's layout; without it one is drawn")
    parser.add_argument("--pretrained", action="store_true",
                        help="predict with the model that comes with the project, without training: about a minute")
    args = parser.parse_args()
    data = from_here(args.DR) if args.DR else Path("data/dancer")
    name = "demo-pretrained-{}" if args.pretrained else "demo-{}"
    run = from_here(os.environ["RUN"]) if os.environ.get("RUN") else Path("runs") / name.format(data.name)

    python = make_environment()
    if not args.DR and not (ROOT / data).is_dir():
        call(python, "scripts/make_dataset.py", data)
    if not args.pretrained:
        seed = os.environ.get("SEED") or 0
        call(python, "Trainer.py", "--DR", data, "--save_root", run, "--seed", seed, *TRAINING)
    checkpoint = MODEL if args.pretrained else run / "best.ckpt"
    call(python, "Tester.py", "--DR", data, "--save_root", run / "test", "--ckpt_path", checkpoint)

    print("\nLook at:")
    for pattern in PICTURES:
        for picture in sorted((ROOT / run).glob(pattern)):
            print(f"  {run / picture.relative_to(ROOT / run)}")


if __name__ == "__main__":
    main()
