"""What a run writes down about itself: the columns of metrics.csv, and the machine, versions and command."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

# one row per epoch, in the order of the file; means are over the epoch's training steps
HISTORY_COLUMNS = {
    "epoch": "0, 1, …",
    "loss": "what is minimised, see --loss",
    "mse": "mean squared error of the predicted frames, range 1",
    "kl": "KL(q || p) in nats per frame, over all clips",
    "beta": "weight of the KL term",
    "tfr": "teacher forcing ratio",
    "posterior_share": "share of the clips whose z is the posterior's, in the last step",
    "lr": "learning rate of the last step",
    "val_psnr": "mean PSNR of the validation in dB; empty where there was none",
    "val_bound": "mean bound of log p in nats a frame, see --best_by; empty where it was not computed",
    "seconds": "of training and validation",
    "frames_per_second": "predicted frames per second of training",
}


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
