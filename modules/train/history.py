"""What a run writes down about itself: the columns of metrics.csv, and the machine, versions and command."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

# one row per epoch, in the order of the file; docs/running.md says what each of them is
HISTORY_COLUMNS = ("epoch", "loss", "mse", "kl", "beta", "tfr", "posterior_share", "lr", "val_psnr", "val_bound",
                   "seconds", "frames_per_second")


def describe_environment(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """The machine, the versions and the command of this process, for people who repeat the run."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.replace("cpu", "")
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
