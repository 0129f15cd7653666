"""Never lose a run: the lock on its folder, where to go on, when to save within an epoch, how to stop.

Everything random is a function of (seed, epoch, step), so a run goes on exactly from weights, optimizer, history and
`EpochProgress`.
"""

import argparse
import contextlib
import csv
import dataclasses
import io
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modules.files import lock_file, write_text
from modules.model.checkpoint import load_checkpoint, read_config
from modules.runtime import InputError
from modules.train.distributed import Ranks

# what cannot change when a run goes on
FIXED = ("arch", "F_dim", "L_dim", "N_dim", "D_out_dim", "prior", "frame_H", "frame_W", "seed", "optim", "ckpt_path")
# what changes nothing that is learned
FREE = ("DR", "save_root", "device", "num_workers", "cache_dir", "gpu", "per_save", "store_visualization", "no_sanity",
        "test", "overwrite", "save_minutes", "max_bad_steps")
# what decides the steps of an epoch, with the number of clips that all processes train on in one step
PLAN = ("train_vi_len", "windows", "random_start", "persist", "shift_down", "shift_right", "partial", "fast_train",
        "fast_partial", "fast_train_epoch", "epoch_steps")


def claim_folder(root: Path, overwrite: bool, needed: str | None = None) -> contextlib.AbstractContextManager:
    """Lock --save_root for this process until the context that is returned ends, or the process does in any way.

    InputError if another process has it. overwrite: an old run is kept aside first, unless a `needed` file is in it.
    """
    lock = lock_file(root / ".lock")
    if lock is None:
        raise InputError(f"--save_root {root}: another process is writing to it; wait for it or choose another folder")
    if overwrite and (root / "last.ckpt").exists():
        if needed and root.resolve() in Path(needed).resolve().parents:
            raise InputError(f"--overwrite would move --ckpt_path {needed} away; choose another --save_root")
        keep_aside(root)
        return claim_folder(root, overwrite=False)
    for folder in (root, root / "figures"):
        for left_behind in folder.glob(".*.tmp"):  # by a process that was killed while it wrote
            left_behind.unlink(missing_ok=True)
    return lock


def keep_aside(root: Path) -> None:
    """Rename the folder of an old run to the first free of ROOT.old1, ROOT.old2, …"""
    number = 1
    while (aside := root.with_name(f"{root.name}.old{number}")).exists():
        number += 1
    root.rename(aside)
    print(f"Kept the old run as {aside}")


def find_start(args: argparse.Namespace) -> tuple[dict | None, str | None]:
    """The checkpoint to begin with and its path: last.ckpt where --save_root holds a run, else --ckpt_path's, or None.

    Completes args: with --ckpt_path, the architecture is the checkpoint's, and so is a frame size that is not given.
    """
    last = Path(args.save_root) / "last.ckpt"
    goes_on = last.exists() and not args.test
    path = str(last) if goes_on else args.ckpt_path
    checkpoint = load_checkpoint(path) if path else None
    if args.ckpt_path:
        config, size = read_config(checkpoint, path)
        vars(args).update(config)
        args.frame_H, args.frame_W = args.frame_H or size[0], args.frame_W or size[1]
    args.frame_H, args.frame_W = args.frame_H or 32, args.frame_W or 64
    if goes_on:
        check_same_run(args, checkpoint.get("settings", {}))
    return checkpoint, path


def check_same_run(args: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Compare the flags with those that the run was last started with.

    InputError for a change that makes it another run; one line for a change that makes another result.
    """
    changed = {name: value for name, value in vars(args).items() if name in settings and settings[name] != value}
    for name in FIXED:
        if name in changed:
            raise InputError(
                f"--{name} {changed[name]}: the run in {args.save_root} was started with {settings[name]}; "
                "choose another --save_root, or --overwrite to start anew"
            )
    changes = [f"--{name} {settings[name]} -> {value}" for name, value in changed.items() if name not in FREE]
    if changes:
        print(f"Changed: {', '.join(changes)}. It counts from here on: the result is not that of an unbroken run.")
    if "num_epoch" in changed:
        print("The schedules of learning rate and beta are from here on those of a run of the new --num_epoch.")


def write_metrics(path: Path, columns: tuple[str, ...], history: list[dict]) -> None:
    """metrics.csv: a row per epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(path, text.getvalue())


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The flags as they are kept in a checkpoint."""
    return {key: value for key, value in vars(args).items() if key != "overwrite"}


@dataclasses.dataclass
class EpochProgress:
    """How far an epoch has come: what its steps leave behind besides weights and optimizer."""

    plan: dict[str, Any]  # the flags that decide its steps
    steps: int  # of the epoch
    sums: Tensor  # (4,): loss, mse and kl summed over the good steps, and the number of these
    streak: Tensor  # (): steps in a row, up to now, that were skipped because a number in them was not finite
    longest: Tensor  # (): the longest such streak
    step: int = 0  # steps done
    seconds: float = 0.0  # that they took

    @classmethod
    def start(
        cls, args: argparse.Namespace, batch: int, steps: int, device: torch.device, before: "EpochProgress | None"
    ) -> "EpochProgress":
        """An epoch of so many steps on `batch` clips, not yet begun. before: the epoch whose streak goes on in it."""
        plan = {name: getattr(args, name) for name in PLAN} | {"batch": batch}
        streak = before.streak if before else torch.tensor(0, device=device)
        return cls(plan, steps, torch.zeros(4, device=device), streak, streak)

    def add(self, numbers: Tensor, seconds: float) -> None:
        """Count a step. numbers: (4,), its loss, mse, kl, and 1 if it was good, 0 if it was skipped. seconds: that the
        epoch's steps have taken so far."""
        good = numbers[3] > 0
        self.sums += torch.where(good, numbers, 0.0)
        self.streak = torch.where(good, 0, self.streak + 1)
        self.longest = torch.maximum(self.longest, self.streak)
        self.step, self.seconds = self.step + 1, seconds

    def means(self) -> tuple[list[float], int]:
        """loss, mse and kl averaged over the good steps (nan without any), and the number of skipped steps."""
        *sums, good = self.sums.tolist()
        return [total / good if good else math.nan for total in sums], self.step - round(good)

    def rate(self, frames: int) -> float:
        """Frames per second, at so many frames per step."""
        return self.step * frames / self.seconds

    def stop_if_broken(self, max_bad_steps: int, checkpoint: str) -> None:
        """InputError after too many skipped steps in a row."""
        if self.longest >= max_bad_steps:
            raise InputError(
                f"the loss or gradient of {int(self.longest)} steps in a row was not finite (--max_bad_steps "
                f"{max_bad_steps}): stopped, {checkpoint} is as before; try a smaller --lr or --precision fp32"
            )

    def saved(self, carry: Tensor | None) -> dict[str, Any]:
        """As it is kept in a checkpoint, with the carried frames of all processes; `restore` reads it."""
        tensors = {"sums": self.sums.cpu(), "carry": None if carry is None else carry.cpu()}
        numbers = {"streak": int(self.streak), "longest": int(self.longest)}
        return {"plan": self.plan, "steps": self.steps, "step": self.step, "seconds": self.seconds} | tensors | numbers

    def restore(self, saved: dict[str, Any], frame: tuple[int, int, int]) -> Tensor | None:
        """Go on from what `saved` gave; returns the carried frames, each of shape `frame`, of all processes.

        With other steps than then it is at the same share of the epoch, and nothing is carried.
        """
        carry, same = saved["carry"], saved["plan"] == self.plan and saved["steps"] == self.steps
        if same and carry is not None and carry.shape != (self.plan["batch"], *frame):
            raise InputError(f"the checkpoint's carried frames have shape {tuple(carry.shape)}; expected other ones")
        self.step = saved["step"] if same else round(saved["step"] / saved["steps"] * self.steps)
        scale = self.step / saved["step"] if saved["step"] else 0.0
        self.sums = saved["sums"].float().to(self.sums.device) * scale
        self.streak, self.longest = self.streak + saved["streak"], self.longest + saved["longest"]
        self.seconds = saved["seconds"] * scale
        if not same:
            print(f"The steps of an epoch are others than before: going on after step {self.step} of {self.steps}.")
        return carry.float() if same and carry is not None else None


def check_finite(model: nn.Module, checkpoint: Path) -> None:
    """InputError if a weight is not finite: a checkpoint of it would be of no use and take the place of a good one."""
    if not torch.stack(torch._foreach_norm(list(model.parameters()))).isfinite().all():
        raise InputError(f"weights are no longer finite: stopped, {checkpoint} is as before; try a smaller --lr")


class Stops:
    """Says after each step whether to save within the epoch: every --save_minutes, and at SIGINT or SIGTERM.

    The first signal lets the step end; a second one ends the process at once. All processes of a job do the same.
    """

    SAVE = 1  # below the numbers of SIGINT and SIGTERM, so that a signal outdoes the clock

    def __init__(self, save_minutes: float, ranks: Ranks):
        self.seconds, self.ranks = 60 * save_minutes, ranks
        self.noted, self.agreed, self.saved = 0, 0, time.monotonic()  # the signal that came here; that of all processes

    def __enter__(self) -> "Stops":
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if self.noted:
            os._exit(128 + number)
        self.noted = number

    def save_now(self) -> bool:
        """Whether to save after this step; agreed between all processes."""
        due = self.SAVE if time.monotonic() - self.saved >= self.seconds else 0
        wish = self.ranks.highest(self.noted or due)
        if wish > self.SAVE:
            self.agreed = wish
        if wish:
            self.saved = time.monotonic()
        return bool(wish)

    def end_if_asked(self, where: str) -> None:
        """After a signal: end the process, with the exit code that a shell gives for it."""
        if self.agreed:
            name = signal.Signals(self.agreed).name
            print(f"Stopped by {name} {where}; the same command goes on from there.", flush=True)
            self.ranks.wait()  # the first to end has the others ended
            raise SystemExit(128 + self.agreed)
