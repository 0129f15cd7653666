"""Write a checkpoint to share: weights in half precision and the configuration, nothing else.

    python scripts/export.py runs/best/best.ckpt dancer.ckpt
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from modules.model.checkpoint import load_checkpoint, model_from_checkpoint, save_checkpoint
from modules.runtime import run_program


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="best.ckpt of a run")
    parser.add_argument("out", type=Path, help="the file to write")
    args = parser.parse_args()
    contents = load_checkpoint(args.checkpoint)
    model, (height, width) = model_from_checkpoint(contents, args.checkpoint)
    state = model.state_dict()
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    kept = {key: contents[key] for key in ("last_epoch", "val_psnr") if type(contents.get(key)) in (int, float)}
    config = {"model": model.config, "frame_size": [height, width]}
    save_checkpoint(args.out, {"state_dict": halved, "config": config} | kept)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_program(main)
