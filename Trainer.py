"""Train a conditional VAE that predicts video from poses.

    python Trainer.py --DR LAB4_Dataset --save_root runs/best

One training step is `Trainer.step`; what it is fed is made by modules/train/feed.py, what it rolls out is
modules/model/vae.py. One epoch is `Trainer.train_epoch`, the whole run `Trainer.fit`.
"""

import argparse
import contextlib
import copy
import functools
import time
from collections.abc import Callable
from pathlib import Path

from modules.options import parse_trainer, without_effect
from modules.runtime import InputError, leave, run_program

FLAGS = run_program(parse_trainer) if __name__ == "__main__" else None  # errors in flags need not wait for torch

import torch
from torch import Tensor

from dataloader import Dataset_Dance
from modules.data.pixels import to_float
from modules.device import autocast, pick_device, pick_precision
from modules.files import to_csv, write_json, write_text
from modules.model.checkpoint import MODEL_FLAGS, build_model, load_weights, read_config, save_checkpoint
from modules.model.vae import VAE_Model, architecture, frame_loss
from modules.progress import Progress
from modules.runtime import collect_errors
from modules.score.predict import predict
from modules.show.board import Board
from modules.show.curves import draw_training
from modules.show.sequence import draw_validation, score_validation
from modules.train.distributed import Ranks, is_launched, join, launch
from modules.train.feed import Batch, Feed, largest_shift
from modules.train.history import HISTORY_COLUMNS, TAGS, describe_environment
from modules.train.optimizers import build_optimizers, clipped_step, update_ema
from modules.train.resume import (
    EpochProgress,
    Start,
    Stops,
    check_finite,
    check_training,
    claim_folder,
    find_start,
    is_in,
    load_optimizer,
    settings_of,
)
from modules.train.schedules import Schedules, data_share

LOG_STEPS = 20  # steps between two reads of the numbers on the device
COURSE_FRAMES = 23410  # training frames of the course, for --dry_run


class Trainer:
    """A run: model, data, optimizers, history.

    start: the checkpoint that it begins with. ranks: the processes that share the work.
    """

    def __init__(self, args: argparse.Namespace, start: Start | None = None, ranks: Ranks | None = None):
        start, ranks = start or Start(), ranks or Ranks()
        self.args, self.root, self.ranks = args, Path(args.save_root), ranks
        self.device = pick_device(args.device)
        self.dtype = pick_precision(args.precision, self.device)

        torch.manual_seed(args.seed)
        sizes = {name: getattr(args, name) for name in MODEL_FLAGS}
        frame_size, weights = (args.frame_H, args.frame_W), start.contents["state_dict"] if start.contents else None
        levels = architecture(args.arch).levels_for(*frame_size)
        sizes |= {"levels": read_config(start.contents, start.source)[0]["levels"] if weights else levels}
        self.model = build_model(sizes, frame_size, f"--arch {args.arch} with these sizes")
        if weights:
            load_weights(self.model, weights, start.source)
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
        if not args.test:  # nothing is decoded before all that names can tell is checked
            latent = self.model.latent_shape(args.frame_H, args.frame_W)
            self.feed = Feed(args, self.data[0], latent, ranks, self.device)
        collect_errors(*(data.decode for data in self.data))
        self.validation = self.data[-1].sequences
        self.epoch, self.history, self.best_psnr, self.within, self.progress = 0, [], None, None, None
        if start.contents and start.goes_on:
            self._go_on_from(start)
        self.undrawn = self.root / ".undrawn"  # it is there while an epoch is saved and not yet drawn
        self.must_draw_again = self.undrawn.exists() and start.goes_on and self.within is None

    def step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One optimizer step, skipped where a number is not finite.

        Returns loss, mse and kl (3,), means over the batch of all processes, and whether the step was taken () bool.
        """
        frames = to_float(batch.frames)
        with autocast(self.device, self.dtype):
            out = self.model.rollout(
                frames[:, 0], batch.poses, truth=frames, noise=batch.noise, from_posterior=batch.from_posterior,
                teacher_forcing=batch.teacher_forcing,
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
            update_ema(self.ema, self.model, batch.ema_share)
        return means, finite

    def train_epoch(self, epoch: int, stops: Stops | None = None) -> dict:
        """One pass over this epoch's windows, or over what is left of it. Returns the epoch's row of metrics.csv, not
        yet validated. stops: says when to save within the epoch, or to end."""
        progress, steps = self._begin(epoch), self.feed.steps[epoch]
        frames = self.feed.batch_size * (self.args.train_vi_len - 1)  # predicted in one step
        begin = time.perf_counter() - progress.seconds
        now = self.feed.schedules.at(epoch, -1)
        with Progress(f"epoch {epoch}", steps, "step", progress.step) as bar:
            for step, batch in enumerate(self.feed.batches(epoch, progress.step), start=progress.step):
                progress.add(*self.step(batch), time.perf_counter() - begin)
                if progress.step % LOG_STEPS == 0 or progress.step == steps:
                    (_, mse, kl), skipped = progress.means()
                    lr = self.feed.schedules.at(epoch, step).lr
                    bar.say(
                        f"mse {mse:.5f} kl {kl:.3g} beta {now.beta:.3g} tfr {now.tfr:.2f} lr {lr:.2e} "
                        f"{progress.rate(frames):.0f} frames/s{self._time_left(epoch, progress)}"
                        + f" skipped {skipped}" * (skipped > 0)
                    )
                    progress.stop_if_broken(self.root / "last.ckpt")
                bar.update()
                if stops and stops.save_now():
                    self.save_within(epoch, progress)
                    stops.end_if_asked(f"in epoch {epoch} after step {progress.step} of {steps}")
        (loss, mse, kl), skipped = progress.means()
        if skipped:
            print(f"epoch {epoch}: {skipped} of {steps} steps skipped: their loss or gradient was not finite")
        return {
            "epoch": epoch, "loss": loss, "mse": mse, "kl": kl, "beta": now.beta, "tfr": now.tfr,
            "posterior_share": now.posterior_share, "lr": now.lr, "val_psnr": None,
            "seconds": time.perf_counter() - begin, "frames_per_second": progress.rate(frames),
        }

    def fit(self) -> None:
        """Train from the current epoch to the last; after each, validate, save and draw."""
        args = self.args
        board = Board(self.root, TAGS, self.epoch) if args.tensorboard and self.ranks.rank == 0 else None
        if self.ranks.rank == 0:
            write_json(self.root / "environment.json", describe_environment(self.device, self.dtype))
        if self.must_draw_again:
            self.draw_again()
        with Stops(args.save_minutes, self.ranks) as stops:
            for epoch in range(self.epoch, args.num_epoch):
                row = self.train_epoch(epoch, stops)
                begin, last, draw = time.perf_counter(), epoch + 1 == args.num_epoch, None
                if (epoch + 1) % args.val_every == 0 or last:
                    row["val_psnr"], draw = self.validate(epoch)
                row["seconds"] += time.perf_counter() - begin
                self.history.append(row)
                self.epoch = epoch + 1
                if self.ranks.rank == 0:
                    self.save(row, numbered=(epoch + 1) % args.per_save == 0 or last)
                    self.draw(draw)
                if board:
                    board.write(row, [sequence.name for sequence in self.validation])
        if self.ranks.rank == 0:
            print(f"Best validation PSNR {self.best_psnr:.3f} dB. Weights: {self.root / 'best.ckpt'}")

    def validate(self, epoch: int) -> tuple[float | None, Callable | None]:
        """Full-length prediction of the validation sequences from their first frames, z the prior's mean: mean PSNR,
        and the drawing of its pictures, which can wait until the epoch is saved.

        With several processes each predicts its share; the first scores, the others return None twice.
        """
        args, sequences, mine = self.args, self.validation, self.validation[self.ranks.rank :: self.ranks.size]
        frames = predict(self.best_model, mine, self.dtype) if mine else []
        predicted = self.ranks.collect(frames)
        if predicted is None:
            return None, None
        last = epoch + 1 == args.num_epoch or args.test
        average, scores = score_validation(self.root, epoch, sequences, predicted, last and not args.no_sanity)
        return average, functools.partial(
            draw_validation, self.root, epoch, sequences, predicted, scores, args.train_vi_len, args.pictures,
            keep_all=args.store_visualization, video=last or args.store_visualization,
        )

    def save(self, row: dict, numbered: bool) -> None:
        """Write metrics.csv and the checkpoints of a finished epoch, whose pictures are now to be drawn."""
        write_text(self.undrawn, "")
        table = [list(HISTORY_COLUMNS), *(map(row.get, HISTORY_COLUMNS) for row in self.history)]
        write_text(self.root / "metrics.csv", to_csv(table))

        weights, everything = self._checkpoint(row)
        if row["val_psnr"] is not None and (self.best_psnr is None or row["val_psnr"] > self.best_psnr):
            self.best_psnr = everything["training"]["best_psnr"] = row["val_psnr"]
            save_checkpoint(self.root / "best.ckpt", weights)
        if numbered:
            save_checkpoint(self.root / f"epoch={row['epoch']}.ckpt", everything)
        save_checkpoint(self.root / "last.ckpt", everything)

    def draw(self, validation: Callable | None) -> None:
        """The curves, and the pictures of a validation."""
        if self.args.pictures != "none":
            draw_training(self.history, self.root / "figures")
        if validation:
            validation()
        self.undrawn.unlink(missing_ok=True)

    def draw_again(self) -> None:
        """Draw the pictures of an epoch that was saved by a process which then ended."""
        validated = self.history and self.history[-1]["val_psnr"] is not None
        draw = self.validate(self.epoch - 1)[1] if validated else None
        if self.ranks.rank == 0:
            self.draw(draw)

    def save_within(self, epoch: int, progress: EpochProgress) -> None:
        """Write last.ckpt in the middle of an epoch; every process waits until it is whole."""
        if self.ranks.rank == 0:
            now = self.feed.schedules.at(epoch, progress.step - 1)
            row = {"epoch": epoch - 1, "lr": now.lr, "tfr": now.tfr, "val_psnr": None}
            save_checkpoint(self.root / "last.ckpt", self._checkpoint(row, progress.saved())[1])
        self.ranks.wait()

    def _checkpoint(self, row: dict, within: dict | None = None) -> tuple[dict, dict]:
        """The weights to predict with, and everything to go on with; row: of the last whole epoch."""
        check_finite(self.model, self.root / "last.ckpt")
        weights = {
            "state_dict": self.best_model.state_dict(),
            "config": {"model": self.model.config, "frame_size": [self.args.frame_H, self.args.frame_W]},
            "last_epoch": row["epoch"], "lr": row["lr"], "tfr": row["tfr"], "val_psnr": row["val_psnr"],
            "settings": settings_of(self.args),
        }
        training = {
            "weights": self.model.state_dict(), "history": self.history, "within": within,
            "averaged": self.ema.state_dict() if self.ema else None, "best_psnr": self.best_psnr,
        }
        optimizer = {type(o).__name__: {"state": o.state_dict()["state"]} for o in self.optimizers}
        return weights, weights | {"optimizer": optimizer, "training": training}

    @property
    def best_model(self) -> VAE_Model:
        """The weights to predict with: the averaged ones where there are."""
        return self.ema or self.model

    def _go_on_from(self, start: Start) -> None:
        """Continue where the checkpoint was written; its optimizer, history and epoch's progress too if it has them."""
        checkpoint, source = start.contents, start.source
        self.epoch = checkpoint.get("last_epoch", -1) + 1
        training = check_training(checkpoint, source)
        print(f"Going on from {source} at epoch {self.epoch}", end="")
        if not training:
            print(": it holds weights only, the optimizer starts anew.")
            return
        self.within = training.get("within")
        print(f", after step {self.within['step']} of {self.within['steps']}." if self.within else ".")
        load_weights(self.model, training["weights"], source)
        for optimizer in self.optimizers:
            load_optimizer(optimizer, checkpoint, source)
        self.history, self.best_psnr = training["history"], training["best_psnr"]
        if self.ema and training["averaged"]:
            load_weights(self.ema, training["averaged"], source)

    def _begin(self, epoch: int) -> EpochProgress:
        """An epoch's progress: none, or that of the checkpoint which was written within it."""
        progress = EpochProgress.start(
            self.args, self.feed.batch_size, self.feed.steps[epoch], self.device, before=self.progress
        )
        if self.within:
            progress.restore(self.within)
        self.within, self.progress = None, progress
        return progress

    def _time_left(self, epoch: int, progress: EpochProgress) -> str:
        """The time that the whole run still needs at this epoch's pace, validations left out: ", run 1:02:03 left"."""
        left = self.feed.schedules.total - self.feed.schedules.done(epoch, progress.step)
        minutes, seconds = divmod(round(left * progress.seconds / progress.step), 60)
        return f", run {minutes // 60}:{minutes % 60:02}:{seconds:02} left"

    def describe(self) -> str:
        """What this run will do, in a few lines."""
        args, model = self.args, self.model
        size = sum(p.numel() for p in model.parameters())
        height, width = model.latent_shape(args.frame_H, args.frame_W)[1:]
        lines = [
            *(data.describe() + "." for data in self.data),
            f"Model: {args.arch}, {size:,} parameters, {args.frame_H}x{args.frame_W} frames, z at {height}x{width}; "
            f"{self.device.type}, {str(self.dtype).removeprefix('torch.')}, preset {args.preset}.",
            describe_shift(args),
            self.feed.schedules.describe(),
            *(f"--{name} is taken and has no effect {why}." for name, why in without_effect(args)),
            f"Everything is written to {self.root}.",
        ]
        return "\n".join(lines)


def describe_shift(args: argparse.Namespace) -> str:
    """How far clips are moved."""
    down, right = largest_shift(args)
    if args.windows == "template" or not (down or right):
        return "Clips are not moved."
    return f"Clips are moved by up to {down} pixels up or down and {right} to a side."


def planned(args: argparse.Namespace) -> Schedules:
    """The schedules of a run on the course's training frames, taken as one clip."""
    windows = [int(COURSE_FRAMES * data_share(args, epoch)) // args.train_vi_len for epoch in range(args.num_epoch)]
    return Schedules(args, [args.epoch_steps or max(1, count // args.batch_size) for count in windows])


def dry_run(args: argparse.Namespace) -> None:
    """Print the flags and write <save_root>/dry_run: schedules.csv and its pictures. No data is read."""
    from modules.show.curves import draw_schedules

    for key, value in sorted(vars(args).items()):
        if key != "given":
            print(f"--{key} {value}")
    print(describe_shift(args))
    schedules = planned(args)
    rows, folder = schedules.table(), Path(args.save_root) / "dry_run"
    write_text(folder / "schedules.csv", to_csv([list(rows[0]), *(row.values() for row in rows)]))
    pictures = draw_schedules(rows, folder)
    print(schedules.describe())
    print(f"{schedules.total:,} optimizer steps with the course's {COURSE_FRAMES:,} training frames.")
    print(f"Wrote {folder}: schedules.csv, {', '.join(pictures)}. Nothing was trained.")


def main(args: argparse.Namespace | None = None) -> None:
    args = args or parse_trainer()
    if args.dry_run:
        return dry_run(args)
    if args.gpu > 1 and not is_launched():
        launch(functools.partial(main, args), args.gpu, args.device)
        return
    with join(args.device) as ranks, contextlib.ExitStack() as held:
        with ranks.first_alone():
            if ranks.rank == 0:
                anew = args.overwrite and not args.test
                held.enter_context(claim_folder(Path(args.save_root), anew, args.ckpt_path))
            args, start = find_start(args)
            trainer = Trainer(args, start, ranks)
        if args.test:
            draw = trainer.validate(max(0, trainer.epoch - 1))[1]
            if draw:
                draw()
        elif trainer.epoch >= args.num_epoch:
            done = f"{start.source}: all {trainer.epoch} epochs are done; a larger --num_epoch goes on"
            if args.ckpt_path and is_in(args.ckpt_path, Path(args.save_root)):
                raise InputError(f"{done}, another --save_root starts a new run from these weights")
            print(f"{done}.")
            if trainer.must_draw_again:
                trainer.draw_again()
        else:
            print(trainer.describe())
            trainer.fit()


if __name__ == "__main__":
    run_program(main, FLAGS)
    leave()
