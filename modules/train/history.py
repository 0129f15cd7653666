"""What a run writes down about itself: the columns of metrics.csv, and the machine, versions and command."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch


class Column(NamedTuple):
    """A column of metrics.csv."""

    meaning: str
    tag: str | None  # in TensorBoard
    needed: bool = True  # False: histories of earlier versions may lack it


# one row per epoch, in the order of the file; means are over the epoch's training steps
HISTORY_COLUMNS = {
    "epoch": Column("0, 1, …", None),
    "loss": Column("what is minimised, see --loss", "train/loss"),
    "mse": Column("mean squared error of the predicted frames, range 1", "train/mse"),
    "kl": Column("KL(q || p) in nats per frame, over the clips whose z is the posterior's", "train/kl"),
    "beta": Column("weight of the KL term", "schedule/beta"),
    "tfr": Column("teacher forcing ratio", "schedule/tfr"),
    "posterior_share": Column(
        "share of the clips whose z is the posterior's, in the last step", "schedule/posterior_share", needed=False
    ),
    "lr": Column("learning rate of the last step", "schedule/lr"),
    "val_psnr": Column("mean PSNR of the validation in dB; empty where there was none", "validation/psnr"),
    "seconds": Column("of training and validation", "speed/seconds"),
    "frames_per_second": Column("predicted frames per second of training", "speed/frames_per_second", needed=False),
}
TAGS = {name: column.tag for name, column in HISTORY_COLUMNS.items() if column.tag}


def describe_environment(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """The machine, the versions and the command of this process, for people who repeat the run."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "command": " ".join(sys.argv), "python": platform.python_version(), "torch": torch.__version__,
        "system": platform.platform(), "device": gpu or f"CPU, {os.cpu_count()} cores",
        "precision": str(dtype).removeprefix("torch."), "commit": read_commit(),
    }


def read_commit() -> str:
    """The commit of the code, with a + where files differ from it; "unknown" outside a git checkout."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, encoding="utf-8", timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
