"""Never lose a run: the lock on its folder, where it resumes, when to save within an epoch, how to stop; the training
part of a checkpoint.

Everything random is a function of (seed, epoch, step), so a run resumes exactly from weights, optimizer, history and
`EpochProgress`.
"""

import argparse
import contextlib
import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modules.files import lock_file
from modules.model.checkpoint import MODEL_FLAGS, check_frame_size, load_checkpoint, model_from_checkpoint
from modules.model.vae import VAE_Model
from modules.runtime import InputError, on_signal
from modules.train.distributed import Ranks

# flags that cannot change when a run resumes, beside MODEL_FLAGS and the frame size
FIXED = ("preset", "seed", "optim", "bounded", "best_by")
# flags that change nothing that is learned
FREE = ("DR", "save_root", "device", "num_workers", "cache_dir", "gpu", "per_save", "store_visualization", "no_sanity",
        "test", "save_minutes", "pictures", "fps", "ckpt_path")
MAX_BAD_STEPS = 20  # in a row whose loss or gradient is not finite, until a run stops


def claim_folder(root: Path) -> contextlib.AbstractContextManager:
    """Lock --save_root until the returned context ends, or the process does; InputError if another process has it."""
    lock = lock_file(root / ".lock")
    if lock is None:
        raise InputError(f"--save_root {root}: another process is writing to it; wait for it or choose another folder")
    for folder in (root, root / "figures"):
        for unfinished in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
            unfinished.unlink(missing_ok=True)
    return lock


class Start(NamedTuple):
    """The checkpoint that a run begins with: resumed, or else only its weights."""

    path: str
    contents: dict[str, Any]
    model: VAE_Model
    resumed: bool


def find_start(args: argparse.Namespace) -> Start | None:
    """The checkpoint to begin with, if any; the flags of its architecture and frame size are filled in.

    A run resumes from last.ckpt in --save_root, or from the checkpoint there that --ckpt_path names, unless last.ckpt
    continues that one. A --ckpt_path elsewhere gives a new run its weights.
    """
    root, given = Path(args.save_root), args.ckpt_path
    last, own = root / "last.ckpt", bool(given) and Path(given).resolve().parent == root.resolve()
    if own and not args.test:
        with contextlib.suppress(InputError):
            own = load_checkpoint(last).get("settings", {}).get("ckpt_path") != given
    whole = max(root.glob("epoch=*.ckpt"), key=os.path.getmtime, default="one of its checkpoints")
    resumed = (own or last.exists()) and not args.test
    if resumed and given and not own:
        print(f"--ckpt_path {given} is not used: {last} exists, and the run resumes from it.")
    if not resumed and not args.test and (found := [*root.glob("*.ckpt"), *root.glob("metrics.csv")]):
        raise InputError(f"--save_root {root}: holds {found[0].name} of a run, but no last.ckpt to resume from; "
                         f"--ckpt_path {whole} resumes there, or choose another --save_root")
    path = str(last) if resumed and not own else given
    if path is None:
        return None
    try:
        contents = load_checkpoint(path)
    except InputError as error:
        raise InputError(f"{error}; --ckpt_path {whole} resumes there") if resumed and not own else error from None
    model, (height, width) = model_from_checkpoint(contents, path)
    if resumed:
        check_same_run(args, contents.get("settings", {}))
    elif not args.test:
        print(f"Starting a new run from the weights of {path}: epoch 0, schedules from their beginning.")
    config = {name: model.config[name] for name in MODEL_FLAGS} | {"frame_H": height, "frame_W": width}
    other = [f"--{name} {config[name]}" for name in MODEL_FLAGS
             if name not in args.given and config[name] != getattr(args, name)]
    if other and not resumed:
        print(f"Not of preset {args.preset}, the checkpoint decides: {' '.join(other)}")
    for name, value in config.items():
        if name not in args.given:
            setattr(args, name, value)
        elif getattr(args, name) != value and (resumed or name in MODEL_FLAGS):
            raise InputError(f"--{name} {getattr(args, name)}: {path} has {value}; leave the flag out")
    check_frame_size(model, (args.frame_H, args.frame_W), path)
    return Start(path, contents, model, resumed)


def check_same_run(args: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Compare the flags with those that the run was last started with.

    InputError for a change that makes it another run; one line for a change that makes another result.
    """
    free = (*FREE, *MODEL_FLAGS, "frame_H", "frame_W")
    changed = {name: value for name, value in vars(args).items()
               if name in settings and settings[name] != value and name not in free}
    for name in FIXED:
        if name in changed:
            raise InputError(f"--{name} {changed[name]}: the run in {args.save_root} was started with "
                             f"{settings[name]}; choose another --save_root")
    if changed:
        changes = ", ".join(f"--{name} {settings[name]} -> {value}" for name, value in changed.items())
        print(f"Changed: {changes}. It counts from here on: the result is not that of an unbroken run.")
    if "num_epoch" in changed:
        print("The schedules of learning rate and beta are from here on those of a run of the new --num_epoch.")


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The flags as a checkpoint holds them."""
    return {key: value for key, value in vars(args).items() if key != "given"}


@dataclasses.dataclass
class EpochProgress:
    """How far an epoch has come: what its steps leave behind besides weights and optimizer."""

    steps: int  # of the epoch
    sums: Tensor  # (4,): loss, mse and kl summed over the finite steps, and the number of these
    streak: Tensor  # (): the latest steps in a row that were skipped because a number in them was not finite
    step: int = 0  # steps done
    seconds: float = 0.0  # of the steps done

    def add(self, means: Tensor, finite: Tensor, seconds: float) -> None:
        """Count a step. means: (3,) loss, mse, kl. finite: () bool, False if the step was skipped. seconds: of the
        epoch's steps so far."""
        self.sums += torch.where(finite, torch.cat([means, finite[None]]), 0.0)
        self.streak = torch.where(finite, 0, self.streak + 1)
        self.step, self.seconds = self.step + 1, seconds

    def means(self) -> tuple[list[float], int]:
        """Means of loss, mse and kl over the finite steps (nan without any), and the number of skipped steps."""
        *sums, finite = self.sums.tolist()
        return [total / finite if finite else math.nan for total in sums], self.step - round(finite)

    def stop_if_broken(self, checkpoint: Path) -> None:
        """InputError after too many skipped steps in a row."""
        if self.streak >= MAX_BAD_STEPS:
            raise InputError(f"the loss or gradient of {int(self.streak)} steps in a row was not finite: stopped; "
                             f"{checkpoint} was not changed; try a smaller --lr or --precision fp32")

    def saved(self) -> dict[str, Any]:
        """As a checkpoint holds it; `restore` reads it."""
        return dataclasses.asdict(self) | {"sums": self.sums.cpu(), "streak": int(self.streak)}

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from what `saved` gave; if the epoch has another number of steps now, at the same share of it."""
        self.step = round(saved["step"] / saved["steps"] * self.steps)
        scale = self.step / saved["step"] if saved["step"] else 0.0
        self.sums = saved["sums"].float().to(self.sums.device) * scale
        self.streak, self.seconds = self.streak + int(saved["streak"]), float(saved["seconds"]) * scale
        if not (0 <= self.step <= self.steps and self.sums.shape == (4,) and self.sums.isfinite().all()):
            raise ValueError("progress")


def check_finite(model: nn.Module, checkpoint: Path) -> None:
    """InputError if a weight is not finite: its checkpoint would replace a good one."""
    if not torch.stack(torch._foreach_norm(list(model.parameters()))).isfinite().all():
        raise InputError(f"weights are no longer finite: stopped; {checkpoint} was not changed; try a smaller --lr")


class Stops:
    """Says after each step whether to save: every --save_minutes (0: never), and at a signal, which ends all processes.

    A second Ctrl-C or SIGTERM, at least one second later, exits immediately. (A closing terminal sends SIGHUP twice;
    that is ignored.)
    """

    def __init__(self, save_minutes: float, ranks: Ranks):
        self.seconds, self.ranks, self.signal = 60 * save_minutes or math.inf, ranks, 0
        self.last_save = self.signal_time = time.monotonic()

    def note(self, number: int, _frame: object) -> None:
        """Handle a signal during the steps."""
        if not self.signal:
            self.signal, self.signal_time = number, time.monotonic()
        elif number in (signal.SIGINT, signal.SIGTERM) and time.monotonic() - self.signal_time > 1:
            os._exit(128 + number)

    def after_step(self, save: Callable[[], None], where: str) -> None:
        """Call `save` if it is time to, or a signal came, which ends the process; all processes do the same."""
        due = time.monotonic() - self.last_save >= self.seconds
        wish = self.ranks.max(1 + self.signal if self.signal else int(due))  # 1: save; 1 + number: a signal
        if wish:
            save()
            self.last_save = time.monotonic()
        if wish > 1:
            self.ranks.wait()  # before the first to end makes the others end
            stopped(wish - 1, where)

    @contextlib.contextmanager
    def at_once(self, where: str) -> Iterator[None]:
        """Within the block, which loses nothing by it, a signal ends the process immediately."""
        def stop(number: int, _frame: object) -> None:
            self.signal = number
            raise SystemExit

        try:
            with on_signal(stop):
                if self.signal:  # it came after the last step
                    raise SystemExit
                yield
        finally:
            if self.signal:
                stopped(self.signal, where)


def stopped(number: int, where: str) -> None:
    """End the process after a signal, with the exit code that a shell gives for it."""
    print(f"Stopped by {signal.Signals(number).name} {where}; the same command resumes there.")
    raise SystemExit(128 + number)


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Reading the training part of a checkpoint: whatever is wrong in it is one line."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise InputError(f"{path}: cannot resume from it: its training part is damaged, of another version or missing "
                         f"({type(error).__name__}: {error})") from None
