"""From nothing to predicted videos: python scripts/demo.py [--pretrained] [DR]

Installs the requirements, draws the project's own data set (or uses the data set DR), trains 1,000 steps, predicts and
scores the test sequences, and names the images to look at. The same command again resumes the training.
VENV=path names an environment.
"""

import argparse
from pathlib import Path

from environment import ROOT, call, make_environment

TRAINING = ["--num_epoch", "4", "--epoch_steps", "250", "--val_every", "2"]
IMAGES = ("figures/loss_curve.png", "figures/val_psnr.png", "figures/psnr_per_frame.png", "test/seq*/panel.png",
          "test/seq*/panel.mp4", "test/seq*/pred_seq.gif")


def main():
    parser = argparse.ArgumentParser(description="From nothing to predicted videos.")
    parser.add_argument("DR", nargs="?", help="a data set in the course's layout (default: one is drawn)")
    parser.add_argument("--pretrained", action="store_true", help="predict with the project's model, without training")
    args = parser.parse_args()
    data = Path(args.DR).expanduser().resolve() if args.DR else Path("data/dancer")
    run = Path("runs", f"demo-pretrained-{data.name}" if args.pretrained else f"demo-{data.name}")

    python = make_environment()
    if not args.DR and not (ROOT / data).is_dir():
        call(python, "scripts/make_dataset.py", data)
    if not args.pretrained:
        call(python, "Trainer.py", "--DR", data, "--save_root", run, *TRAINING)
    checkpoint = "docs/pretrained/dancer.ckpt" if args.pretrained else run / "best.ckpt"
    call(python, "Tester.py", "--DR", data, "--save_root", run / "test", "--ckpt_path", checkpoint)

    print("\nLook at:")
    for pattern in IMAGES:
        for image in sorted((ROOT / run).glob(pattern)):
            print(f"  {image.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
