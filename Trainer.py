"""Train a conditional VAE that predicts video from poses.

    python Trainer.py --DR LAB4_Dataset --save_root runs/best

One training step is `Trainer.step`; what it is fed is made by modules/train/feed.py, what it rolls out is
modules/model/vae.py. One epoch is `Trainer.train_epoch`, the whole run `Trainer.fit`.
"""

import argparse
import contextlib
import copy
import functools
import math
import time
from pathlib import Path

from modules.options import parse_trainer, without_effect
from modules.runtime import InputError, collect_errors, on_signal, run_program, start

FLAGS = run_program(start, parse_trainer, "Trainer") if __name__ == "__main__" else None

import torch
from torch import Tensor

from dataloader import Dataset_Dance
from modules.data.layout import frames_per_second
from modules.data.pixels import to_float
from modules.device import autocast, pick_device, pick_precision
from modules.files import to_csv, write_json, write_text
from modules.model.checkpoint import MODEL_FLAGS, build_model, load_weights, save_checkpoint
from modules.model.vae import VAE_Model, architecture, frame_loss
from modules.progress import Progress
from modules.score.latent import bound
from modules.score.predict import predict
from modules.show.curves import draw_training
from modules.show.sequence import draw_validation, score_validation
from modules.train.distributed import Ranks, join
from modules.train.feed import Batch, Feed, largest_shift
from modules.train.history import HISTORY_COLUMNS, describe_environment
from modules.train.optimizers import build_optimizers, clipped_step, update_ema
from modules.train.resume import (
    EpochProgress,
    Start,
    Stops,
    check_finite,
    claim_folder,
    find_start,
    reading,
    settings_of,
)

LOG_STEPS = 20  # steps between two reads of the numbers on the device


class Trainer:
    """A run: model, data, optimizers, history. start: a checkpoint. ranks: the processes that share the work."""

    def __init__(self, args: argparse.Namespace, start: Start | None = None, ranks: Ranks | None = None):
        self.args, self.root, self.ranks = args, Path(args.save_root), ranks or Ranks()
        self.device = pick_device(args.device)
        self.dtype = pick_precision(args.precision, self.device)
        self.model = start.model if start else new_model(args)
        if not args.test:  # which validates the checkpoint as it is
            self.model.bounded = args.bounded
        self.model.to(self.device, memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.model) if args.ema else None
        self.optimizers = build_optimizers(args.optim, self.model, args.lr, args.weight_decay, self.dtype)

        data = {
            "root": args.DR, "frame_H": args.frame_H, "frame_W": args.frame_W, "train_vi_len": args.train_vi_len,
            "val_vi_len": args.val_vi_len, "partial": args.partial, "cache_dir": args.cache_dir,
            "workers": args.num_workers, "skip_bad": args.skip_bad,
        }
        modes = ["val"] if args.test else ["train", "val"]
        self.data = collect_errors(*(functools.partial(Dataset_Dance, mode=mode, **data) for mode in modes))
        if not args.test:  # nothing is decoded before all that the names of files tell is checked
            latent = self.model.latent_shape(args.frame_H, args.frame_W)
            self.feed = Feed(args, self.data[0], latent, self.ranks, self.device, self.model.last_frames)
        collect_errors(*(data.decode for data in self.data))
        self.validation, self.video_rate = self.data[-1].sequences, frames_per_second(args.DR, args.fps)
        self.epoch, self.history, self.digests = 0, [], [data.digest() for data in self.data]
        self.judge, self.best = f"val_{args.best_by}", -math.inf  # the column that decides, and best.ckpt's value there
        self.streak = torch.tensor(0, device=self.device)  # skipped steps in a row, see EpochProgress
        self.progress = None  # of the epoch to resume in
        if start and start.resumed:
            self.resume(start)

    def resume(self, start: Start) -> None:
        """Continue where the checkpoint was written."""
        contents, path = start.contents, start.path
        with reading(path):
            training, self.epoch = contents["training"], contents["last_epoch"] + 1
            self.history = training["history"]
            if len(self.history) != self.epoch or any({*HISTORY_COLUMNS} - {*row, "val_bound"} for row in self.history):
                raise ValueError("its history has other epochs or columns")
            within = training.get("within")
            load_weights(self.model, training["weights"], path)
            for optimizer in self.optimizers:
                state = contents["optimizer"][type(optimizer).__name__]["state"]
                # rates and the like are the flags', never the file's
                optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
            if self.ema and training["averaged"]:
                load_weights(self.ema, training["averaged"], path)
            self.best, known = float(training.get("best", -math.inf)), training.get("digests", self.digests)
            lost = math.isfinite(self.best) and not (self.root / "best.ckpt").exists()
            if known != self.digests or lost:
                self.best = -math.inf
                why = "is gone" if lost else f"is of other data ({'; '.join(known)} -> {'; '.join(self.digests)})"
                print(f"best.ckpt {why}: from here on the best epoch is chosen among those from {self.epoch} on.")
            where = ""
            if within and self.epoch < self.args.num_epoch:
                self.progress = self.begin(self.epoch)
                self.progress.restore(within)
                where = f", after step {self.progress.step} of {self.progress.steps}"
        print(f"Resuming from {path} at epoch {self.epoch}{where}.")

    def step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One optimizer step, skipped where a number is not finite.

        Returns loss, mse and kl (3,), means over the batch of all processes, and whether the step was taken () bool.
        """
        frames = to_float(batch.frames)
        with autocast(self.device, self.dtype):
            out = self.model.rollout(
                batch.x_1, batch.poses, last=batch.last, truth=frames, noise=batch.noise,
                from_posterior=batch.from_posterior, teacher_forcing=batch.teacher_forcing,
            )
        target = frames[:, 1:] if batch.target_is_truth else torch.cat([frames[:, :1], out.frames[:, :-1]], dim=1)
        kl = out.kl.flatten(2).sum(dim=2)  # (B, T-1) nats a frame
        loss, mse = frame_loss(self.args.loss, out.frames, target, kl, batch.beta)

        self.model.zero_grad()
        loss.mean().backward()
        self.ranks.average_gradients(self.model)
        means = self.ranks.average(torch.stack([loss.mean(), mse.mean(), kl.mean()]).detach())
        finite = clipped_step(self.model, self.optimizers, means, batch.lr, self.args.clip_norm)
        if self.ema:
            update_ema(self.ema, self.model, batch.ema_share * finite)
        return means, finite

    def train_epoch(self, epoch: int, stops: Stops | None = None) -> EpochProgress:
        """One pass over this epoch's windows, or over what is left of it. stops: when to save within it, or to end."""
        progress, steps = self.progress or self.begin(epoch), self.feed.steps[epoch]
        begin = time.perf_counter() - progress.seconds
        with Progress(f"epoch {epoch}", steps, "step", progress.step) as bar:
            for batch in self.feed.batches(epoch, first=progress.step):
                progress.add(*self.step(batch), time.perf_counter() - begin)
                if progress.step % LOG_STEPS == 0 or progress.step == steps:
                    bar.say(self.status(epoch, progress))
                    progress.stop_if_broken(self.root / "last.ckpt")
                bar.update()
                if stops:
                    save = functools.partial(self.save_within, epoch, progress)
                    stops.after_step(save, f"in epoch {epoch} after step {progress.step} of {steps}")
        self.streak, self.progress = progress.streak, None
        return progress

    def fit(self) -> None:
        """Train from the current epoch to the last; after each, validate, draw and save."""
        args, main = self.args, self.ranks.main
        stops = Stops(args.save_minutes, self.ranks)
        if main:
            write_json(self.root / "environment.json", describe_environment(self.device, self.dtype))
        with on_signal(stops.note):
            for epoch in range(self.epoch, args.num_epoch):
                progress = self.train_epoch(epoch, stops)
                self.save_within(epoch, progress)
                with stops.at_once(f"in the validation of epoch {epoch}"):
                    self.finish_epoch(epoch, progress)
        if main:
            print(f"Best {self.judge} {self.best:.3f}. Weights: {self.root / 'best.ckpt'}")

    def begin(self, epoch: int) -> EpochProgress:
        """The progress of an epoch whose first step is still to come."""
        return EpochProgress(self.feed.steps[epoch], torch.zeros(4, device=self.device), self.streak)

    def status(self, epoch: int, progress: EpochProgress) -> str:
        """The numbers behind the bar; the time that the whole run still needs leaves validations out."""
        (_, mse, kl), skipped = progress.means()
        schedules = self.feed.schedules
        now, rate = schedules.at(epoch, progress.step - 1), self.rate(progress)
        left = (schedules.total - schedules.done(epoch, progress.step)) * progress.seconds / progress.step
        return (
            f"mse {mse:.5f} kl {kl:.3g} beta {now.beta:.3g} tfr {now.tfr:.2f} lr {now.lr:.2e} {rate:.0f} frames/s, "
            f"run {left // 3600:.0f}:{left // 60 % 60:02.0f}:{left % 60:02.0f} left"
            + f" skipped {skipped}" * (skipped > 0)
        )

    def rate(self, progress: EpochProgress) -> float:
        """Predicted frames per second of an epoch's steps."""
        return progress.step * self.feed.batch_size * (self.args.train_vi_len - 1) / max(progress.seconds, 1e-9)

    def finish_epoch(self, epoch: int, progress: EpochProgress) -> None:
        """After an epoch's steps: its row of metrics.csv, validation, images, checkpoints."""
        (loss, mse, kl), skipped = progress.means()
        if skipped:
            print(f"epoch {epoch}: {skipped} of {progress.steps} steps skipped: their loss or gradient was not finite")
        begin, last, now = time.perf_counter(), epoch + 1 == self.args.num_epoch, self.feed.schedules.at(epoch, -1)
        validated = (epoch + 1) % (self.args.val_every or self.args.num_epoch) == 0 or last
        scores = self.validate(epoch) if validated else {}
        self.history.append({
            "epoch": epoch, "loss": loss, "mse": mse, "kl": kl, "beta": now.beta, "tfr": now.tfr,
            "posterior_share": now.posterior_share, "lr": now.lr, "val_psnr": None, "val_bound": None, **scores,
            "seconds": progress.seconds + time.perf_counter() - begin, "frames_per_second": self.rate(progress),
        })
        self.epoch = epoch + 1
        if self.ranks.main:
            if self.args.pictures != "none":
                draw_training(self.history, self.root / "figures")
            self.save(self.history[-1], numbered=last or (epoch + 1) % (self.args.per_save or self.args.num_epoch) == 0)

    def validate(self, epoch: int) -> dict[str, float]:
        """Full-length prediction of the validation sequences from their first frames, z the prior's mean: scored and
        drawn. Returns the scores. Of several processes rank 0 does it, and the others wait in their next step."""
        if not self.ranks.main:
            return {}
        args, sequences = self.args, self.validation
        predicted = predict(self.best_model, sequences, self.dtype)
        judged = [] if args.test or args.best_by != "bound" else sequences
        bounds = [bound(self.best_model, sequence, self.dtype) for sequence in judged]
        last = epoch + 1 == args.num_epoch or args.test
        average, scores = score_validation(self.root, epoch, sequences, predicted, last and not args.no_sanity)
        draw_validation(
            self.root, epoch, sequences, predicted, scores, args.train_vi_len, args.pictures,
            keep_all=args.store_visualization, video=last or args.store_visualization, rate=self.video_rate,
        )
        return {"val_psnr": average} | ({"val_bound": sum(bounds) / len(bounds)} if bounds else {})

    def save(self, row: dict, numbered: bool) -> None:
        """Write metrics.csv and the checkpoints of a finished epoch. row: its row of metrics.csv."""
        table = [list(HISTORY_COLUMNS), *(map(row.get, HISTORY_COLUMNS) for row in self.history)]
        write_text(self.root / "metrics.csv", to_csv(table))
        now = -math.inf if row[self.judge] is None else row[self.judge]
        is_best, self.best = now > self.best, max(self.best, now)
        weights, everything = self.checkpoint(row)
        if is_best:
            save_checkpoint(self.root / "best.ckpt", weights)
        if numbered:
            save_checkpoint(self.root / f"epoch={row['epoch']}.ckpt", everything)
        save_checkpoint(self.root / "last.ckpt", everything)

    def save_within(self, epoch: int, progress: EpochProgress) -> None:
        """Write last.ckpt before the epoch is finished; every process waits until the file is whole."""
        if self.ranks.main:
            now = self.feed.schedules.at(epoch, progress.step - 1)
            row = {"epoch": epoch - 1, "lr": now.lr, "tfr": now.tfr}
            save_checkpoint(self.root / "last.ckpt", self.checkpoint(row, progress.saved())[1])
        self.ranks.wait()

    def checkpoint(self, row: dict, within: dict | None = None) -> tuple[dict, dict]:
        """The weights to predict with, and everything to resume from. row: of the last whole epoch."""
        check_finite(self.model, self.root / "last.ckpt")
        weights = {
            "state_dict": self.best_model.state_dict(),
            "config": {"model": self.model.config, "frame_size": [self.args.frame_H, self.args.frame_W],
                       "bounded": self.model.bounded},
            "last_epoch": row["epoch"], "lr": row["lr"], "tfr": row["tfr"], "val_psnr": row.get("val_psnr"),
            "settings": settings_of(self.args),
        }
        training = {
            "weights": self.model.state_dict(), "history": self.history, "within": within,
            "best": self.best, "digests": self.digests, "averaged": self.ema.state_dict() if self.ema else None,
        }
        optimizer = {type(o).__name__: {"state": o.state_dict()["state"]} for o in self.optimizers}
        return weights, weights | {"optimizer": optimizer, "training": training}

    @property
    def best_model(self) -> VAE_Model:
        """The weights to predict with: the moving average if there is one."""
        return self.ema or self.model

    def describe(self) -> str:
        """What this run will do, in a few lines."""
        args, model = self.args, self.model
        size = sum(p.numel() for p in model.parameters())
        height, width = model.latent_shape(args.frame_H, args.frame_W)[1:]
        down, right = (0, 0) if args.windows == "template" else largest_shift(args)
        return "\n".join([
            *(data.describe() + "." for data in self.data),
            f"Model: {args.arch}, {size:,} parameters, {args.frame_H}x{args.frame_W} frames, z at {height}x{width}; "
            f"{self.device.type}, {str(self.dtype).removeprefix('torch.')}, preset {args.preset}.",
            f"Clips are shifted by up to {down} pixels up or down and {right} to a side.",
            self.feed.schedules.describe(),
            *(f"--{name} is accepted and has no effect {why}." for name, why in without_effect(args)),
            f"Everything is written to {self.root}.",
        ])


def new_model(args: argparse.Namespace) -> VAE_Model:
    """A model of the flags' sizes with random weights, a function of --seed."""
    torch.manual_seed(args.seed)
    size, sizes = (args.frame_H, args.frame_W), {name: getattr(args, name) for name in MODEL_FLAGS}
    sizes["levels"] = architecture(args.arch).levels_for(*size)
    return build_model(sizes, size, f"--arch {args.arch} with these sizes")


def main(args: argparse.Namespace | None = None) -> None:
    args = args or parse_trainer()
    with join(args.device) as ranks, contextlib.ExitStack() as claimed:
        with ranks.main_first():
            if ranks.main:
                claimed.enter_context(claim_folder(Path(args.save_root)))
            start = find_start(args)
            trainer = Trainer(args, start, ranks)
        if args.test:
            trainer.validate(max(0, start.contents.get("last_epoch", 0)))
        elif trainer.epoch < args.num_epoch:
            print(trainer.describe())
            trainer.fit()
        else:
            done = f"{start.path}: all {trainer.epoch} epochs are done; a larger --num_epoch continues the run"
            if args.ckpt_path == start.path:
                raise InputError(f"{done}, another --save_root starts a new run from these weights")
            print(f"{done}.")


if __name__ == "__main__":
    run_program(main, FLAGS)
