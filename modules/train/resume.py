"""Never lose a run: the lock on its folder, where to go on, when to save within an epoch, how to stop; the training
part of a checkpoint.

Everything random is a function of (seed, epoch, step), so a run goes on exactly from weights, optimizer, history and
`EpochProgress`.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import math
import os
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modules.files import lock_file
from modules.model.checkpoint import MODEL_FLAGS, is_number, is_plain, is_real, is_whole, load_checkpoint, read_config
from modules.runtime import InputError, heard
from modules.train.distributed import Ranks
from modules.train.history import HISTORY_COLUMNS

# what cannot change when a run goes on
FIXED = (*MODEL_FLAGS, "frame_H", "frame_W", "seed", "optim")
# what changes nothing that is learned
FREE = ("DR", "save_root", "device", "num_workers", "cache_dir", "gpu", "per_save", "store_visualization", "no_sanity",
        "test", "overwrite", "save_minutes", "tensorboard", "pictures", "ckpt_path", "start")
# what decides the steps of an epoch, with the number of clips that all processes train on in one step
PLAN = ("train_vi_len", "windows", "random_start", "shift_down", "shift_right", "partial", "fast_train", "fast_partial",
        "fast_train_epoch", "epoch_steps")
# what the programs write into a --save_root
WRITTEN = ("metrics.csv", "validation.json", "environment.json", "best.ckpt", "last.ckpt", "epoch=*.ckpt",
           "figures/*.png", "figures/*.gif", "figures/*.mp4", "tensorboard/events.out.tfevents.*", "curves/*.*",
           "report.html", *(place + name for place in ("", "test/") for name in (
               "metrics.json", "submission.csv", "pred_seq*.gif", "seq*/frames.npz", "seq*/*.gif", "seq*/panel.*",
               "seq*/psnr_per_frame.png")))
MAX_BAD_STEPS = 20  # in a row whose loss or gradient is not finite, until a run stops


def claim_folder(root: Path, overwrite: bool, needed: str | None = None) -> contextlib.AbstractContextManager:
    """Lock --save_root for this process until the context that is returned ends, or the process does in any way.

    InputError if another process has it. overwrite: an old run is kept aside first, unless a `needed` file is of it.
    """
    lock = lock_file(root / ".lock")
    if lock is None:
        raise InputError(f"--save_root {root}: another process is writing to it; wait for it or choose another folder")
    if overwrite and (root / "last.ckpt").exists():
        if needed and Path(needed).resolve() in {path.resolve() for path in written_files(root)}:
            raise InputError(f"--overwrite would move --ckpt_path {needed} away; choose another --save_root")
        keep_aside(root)
    for folder in (root, root / "figures"):
        for left_behind in folder.glob(".*.tmp"):  # by a process that was killed while it wrote
            left_behind.unlink(missing_ok=True)
    return lock


def written_files(root: Path) -> list[Path]:
    """The files of a run in its folder: what the programs write there, and nothing else."""
    return [path for pattern in WRITTEN for path in sorted(root.glob(pattern)) if path.is_file()]


def keep_aside(root: Path) -> None:
    """Move the files of an old run to the first free of ROOT.old1, ROOT.old2, …; where nothing can be made beside ROOT,
    inside it. Files of others stay where they are."""
    root = root.resolve()
    for name in (f"{root.name}.old", f"{root.name}/old"):
        aside = next(path for n in range(1, 10**6) if not (path := root.parent / f"{name}{n}").exists())
        try:
            aside.mkdir()
            break
        except OSError:
            continue
    else:
        raise InputError(f"--overwrite: the old run in {root} cannot be kept aside; choose another --save_root")
    for path in written_files(root):
        target = aside / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    print(f"Kept the old run as {aside}")


class Start(NamedTuple):
    """Where a run begins. contents: of a checkpoint, or None. goes_on: with its epoch, history and optimizer, not only
    with its weights."""

    source: str | None = None
    contents: dict | None = None
    goes_on: bool = False


def find_start(args: argparse.Namespace) -> tuple[argparse.Namespace, Start]:
    """The flags completed by what a checkpoint decides, and where the run begins.

    A run goes on from last.ckpt where --save_root holds one, and from --ckpt_path where that is a checkpoint of this
    very run: it lies in --save_root, or was written with the same flags and has epochs left. Any other --ckpt_path only
    gives its weights, and the run begins at epoch 0. With a --ckpt_path the architecture is the checkpoint's, and so is
    a frame size that is not given.
    """
    args = argparse.Namespace(**vars(args))
    root = Path(args.save_root)
    last, given = root / "last.ckpt", args.ckpt_path
    here = last.exists() and not args.test
    path = str(last) if here else given
    args.start = None  # what the weights of a new run were
    if path is None:
        return args, Start()
    contents = load_checkpoint(path)
    if given:
        config, size = read_config(contents, path)
        vars(args).update({name: config[name] for name in MODEL_FLAGS})
        args.frame_H = args.frame_H if "frame_H" in args.given else size[0]
        args.frame_W = args.frame_W if "frame_W" in args.given else size[1]
    settings = contents.get("settings", {})
    if here:
        check_same_run(args, settings, given)
        args.start = settings.get("start")
        return args, Start(path, contents, goes_on=True)
    own = is_in(given, root)
    goes_on = args.test or own or is_continued_by(args, contents)
    if goes_on:
        args.start = settings.get("start")
    else:
        args.start = digest(given)
        done = contents.get("last_epoch", -1)
        trained = f" (it was trained to epoch {done})" if type(done) is int and done >= 0 else ""
        print(f"Starting a new run from the weights of {given}{trained}: epoch 0, schedules from their beginning. To "
              "go on with that run instead, name its own folder as --save_root.")
    return args, Start(given, contents, goes_on)


def is_continued_by(args: argparse.Namespace, contents: dict) -> bool:
    """Whether a checkpoint is of an unfinished run of these very flags, written to another folder."""
    settings = contents.get("settings", {})
    same = all(settings.get(name) == value for name, value in vars(args).items()
               if name in settings and name not in (*FREE, "num_epoch"))
    done = contents.get("last_epoch", -1)
    return bool(contents.get("training")) and same and type(done) is int and done + 1 < args.num_epoch


def is_in(path: str, folder: Path) -> bool:
    """Whether a file lies in this very folder, however the two are spelled."""
    return Path(path).resolve().parent == folder.resolve()


def digest(path: str) -> str:
    """What a file is, however its path is spelled."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def check_same_run(args: argparse.Namespace, settings: dict[str, Any], given: str | None) -> None:
    """Compare the flags with those that the run was last started with; given: --ckpt_path.

    InputError for a change that makes it another run; one line for a change that makes another result.
    """
    changed = {name: value for name, value in vars(args).items()
               if name in settings and settings[name] != value and name not in FREE}
    for name in FIXED:
        if name in changed:
            raise InputError(
                f"--{name} {changed[name]}: the run in {args.save_root} was started with {settings[name]}; "
                "choose another --save_root, or --overwrite to start anew"
            )
    if given and not is_in(given, Path(args.save_root)):
        begun = settings.get("start") or settings.get("ckpt_path")
        if not begun or (settings.get("start") and os.path.exists(given) and digest(given) != settings["start"]):
            raise InputError(
                f"--ckpt_path {given}: the run in {args.save_root} was started "
                f"{'from other weights' if begun else 'without it'}; choose another --save_root, or --overwrite to "
                "start anew"
            )
    elif given and Path(given).resolve() != (Path(args.save_root) / "last.ckpt").resolve():
        print(f"The run in {args.save_root} goes on from its last.ckpt, which is later than --ckpt_path {given}; to go "
              "back to that one, copy it to another folder.")
    if changed:
        changes = [f"--{name} {settings[name]} -> {value}" for name, value in changed.items()]
        print(f"Changed: {', '.join(changes)}. It counts from here on: the result is not that of an unbroken run.")
    if "num_epoch" in changed:
        print("The schedules of learning rate and beta are from here on those of a run of the new --num_epoch.")


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The flags as they are kept in a checkpoint."""
    return {key: value for key, value in vars(args).items() if key not in ("overwrite", "given")}


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

    def add(self, means: Tensor, finite: Tensor, seconds: float) -> None:
        """Count a step. means: (3,) loss, mse, kl. finite: () bool, False if the step was skipped. seconds: that the
        epoch's steps have taken so far."""
        self.sums += torch.where(finite, torch.cat([means, finite[None]]), 0.0)
        self.streak = torch.where(finite, 0, self.streak + 1)
        self.longest = torch.maximum(self.longest, self.streak)
        self.step, self.seconds = self.step + 1, seconds

    def means(self) -> tuple[list[float], int]:
        """loss, mse and kl averaged over the good steps (nan without any), and the number of skipped steps."""
        *sums, good = self.sums.tolist()
        return [total / good if good else math.nan for total in sums], self.step - round(good)

    def rate(self, frames: int) -> float:
        """Frames per second, at so many frames per step."""
        return self.step * frames / self.seconds

    def stop_if_broken(self, checkpoint: Path) -> None:
        """InputError after too many skipped steps in a row."""
        if self.longest >= MAX_BAD_STEPS:
            raise InputError(
                f"the loss or gradient of {int(self.longest)} steps in a row was not finite: stopped, {checkpoint} is "
                "as before; try a smaller --lr or --precision fp32"
            )

    def saved(self) -> dict[str, Any]:
        """As it is kept in a checkpoint; `restore` reads it."""
        return {
            "plan": self.plan, "steps": self.steps, "step": self.step, "seconds": self.seconds,
            "sums": self.sums.cpu(), "streak": int(self.streak), "longest": int(self.longest),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what `saved` gave; with other steps than then, at the same share of the epoch."""
        same = saved["plan"] == self.plan and saved["steps"] == self.steps
        self.step = saved["step"] if same else round(saved["step"] / saved["steps"] * self.steps)
        scale = self.step / saved["step"] if saved["step"] else 0.0
        self.sums = saved["sums"].float().to(self.sums.device) * scale
        self.streak, self.longest = self.streak + saved["streak"], self.longest + saved["longest"]
        self.seconds = saved["seconds"] * scale
        if not same:
            print(f"The steps of an epoch are others than before: going on after step {self.step} of {self.steps}.")


def check_finite(model: nn.Module, checkpoint: Path) -> None:
    """InputError if a weight is not finite: a checkpoint of it would be of no use and take the place of a good one."""
    if not torch.stack(torch._foreach_norm(list(model.parameters()))).isfinite().all():
        raise InputError(f"weights are no longer finite: stopped, {checkpoint} is as before; try a smaller --lr")


class Stops:
    """Says after each step whether to save within the epoch: every --save_minutes, and at a signal to end.

    The first signal lets the step end. A second one ends the process at once if somebody is impatient: Ctrl-C or
    SIGTERM a second later, since a terminal that closes sends SIGHUP twice. All processes of a job do the same. What
    is ignored (SIGHUP under nohup) stays so.
    """

    SAVE = 1  # what all processes agree on: 0 nothing, 1 save, 1 + number a signal, which outdoes the clock

    def __init__(self, save_minutes: float, ranks: Ranks):
        self.seconds, self.ranks = 60 * save_minutes, ranks
        self.noted, self.agreed = 0, 0  # the signal that came here; that of all processes
        self.saved = self.noted_at = time.monotonic()

    def __enter__(self) -> "Stops":
        self.heard = heard(self._note)
        self.heard.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.heard.__exit__(None, None, None)

    def _note(self, number: int, _frame: object) -> None:
        if not self.noted:
            self.noted, self.noted_at = number, time.monotonic()
        elif number in (signal.SIGINT, signal.SIGTERM) and time.monotonic() - self.noted_at > 1:
            os._exit(128 + number)

    def save_now(self) -> bool:
        """Whether to save after this step; agreed between all processes."""
        due = self.SAVE if time.monotonic() - self.saved >= self.seconds else 0
        wish = self.ranks.highest(self.SAVE + self.noted if self.noted else due)
        if wish > self.SAVE:
            self.agreed = wish - self.SAVE
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


def check_training(contents: dict[str, Any], path: str | Path) -> dict[str, Any] | None:
    """The `training` part of a checkpoint, or None if it holds weights only.

    The weights and the optimizer's state are checked where they are loaded.
    """
    training, last_epoch = contents.get("training"), contents.get("last_epoch", -1)
    if training is None:
        return None

    def check(right: bool, what: str) -> None:
        if not right:
            raise InputError(f"{path}: cannot go on from it: its {what} is damaged, or of another version")

    check(isinstance(training, dict) and {"history", "best_psnr", "weights", "averaged"} <= set(training), "training")
    history, within = training["history"], training.get("within")
    check(isinstance(history, list) and all(isinstance(row, dict) for row in history), "history")
    known = set(HISTORY_COLUMNS)
    expected = {name for name, column in HISTORY_COLUMNS.items() if column.needed}
    check(all(expected <= set(row) <= known and all(map(is_number, row.values())) for row in history), "history")
    epochs = [row["epoch"] for row in history]
    check(all(is_whole(e) for e in epochs) and epochs == sorted(set(epochs)), "history")
    check(not epochs or epochs[-1] == last_epoch, "history")
    needed = [row[name] for row in history for name in ("beta", "tfr", "lr", "seconds")]
    check(None not in needed and not any(map(math.isnan, needed)) and is_number(training["best_psnr"]), "history")
    if within is not None:
        check(isinstance(within, dict) and is_plain(within.get("plan")), "epoch's progress")
        check(is_whole(within.get("steps"), 1) and is_whole(within.get("step"), 0, within["steps"]), "epoch's progress")
        check(all(is_whole(within.get(name)) for name in ("streak", "longest")), "epoch's progress")
        check(is_number(within.get("seconds")) and (within["seconds"] or -1) > 0, "epoch's progress")
        sums = within.get("sums")
        check(is_real(sums) and sums.shape == (4,) and bool(sums.isfinite().all()), "epoch's progress")
    return training


def load_optimizer(optimizer: torch.optim.Optimizer, contents: dict[str, Any], path: str | Path) -> None:
    """Load an optimizer's state per parameter. Its rates and the like are the flags', never the file's."""
    kind, states = type(optimizer).__name__, contents.get("optimizer")
    saved = states.get(kind) if isinstance(states, dict) else None
    state = saved.get("state") if isinstance(saved, dict) else None
    if not isinstance(state, dict):
        raise InputError(f"{path}: cannot go on from it: it holds no state of the optimizer {kind}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names = {"Muon": {"momentum"}}.get(kind, {"step", "exp_avg", "exp_avg_sq"})
    for index, values in state.items():
        fits = is_whole(index, 0, len(parameters) - 1) and isinstance(values, dict) and set(values) == names
        if not fits or not all(
            is_real(value)
            and value.shape == (() if name == "step" else parameters[index].shape)
            and bool(value.isfinite().all())
            for name, value in values.items()
        ):
            raise InputError(f"{path}: cannot go on from it: the state of the optimizer {kind} is damaged")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
