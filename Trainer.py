"""Train a conditional VAE that predicts video from poses.

    python Trainer.py --DR LAB4_Dataset --save_root runs/best

One training step is `Trainer.step`: what it feeds and `_update`, what is computed. One epoch is `Trainer.train_epoch`,
the whole run `Trainer.fit`.
"""

import argparse
import contextlib
import copy
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from dataloader import Dataset_Dance
from modules.data.pixels import to_float
from modules.device import autocast, keep_on, pick_device, pick_precision, to_device
from modules.files import write_json
from modules.graphs import Graphed, compile_boxes
from modules.model.checkpoint import build_model, check_training, load_optimizer, load_weights, save_checkpoint
from modules.model.vae import VAE_Model, frame_loss
from modules.options import parse_trainer
from modules.runtime import InputError, run_program
from modules.score.metrics import frame_mse
from modules.score.predict import predict
from modules.show.board import Board
from modules.show.curves import draw_training
from modules.show.runs import COLUMNS, describe_environment
from modules.show.validation import draw_validation, score_validation
from modules.train.distributed import Ranks, is_launched, join, launch
from modules.train.draws import Draws
from modules.train.dry_run import dry_run
from modules.train.optimizers import build_optimizers, move_towards, set_learning_rate, step_if
from modules.train.resume import (
    EpochProgress,
    Stops,
    check_finite,
    claim_folder,
    find_start,
    settings_of,
    write_metrics,
)
from modules.train.schedules import annealing, data_share, learning_rate, teacher_forcing_ratio
from modules.train.windows import Plan, gather, shuffled_plan, template_plan

LOG_STEPS = 20  # steps between two reads of the numbers on the device


class Trainer:
    """A run: model, optimizer, data on the device, history. Everything random is a function of (seed, epoch, step).

    checkpoint, source: what it goes on from and that file's path, or None. ranks: the processes that share the work.
    """

    carry: Tensor | None = None  # (B, 3, H, W) the frames that the last step of this epoch generated last

    def __init__(self, args: argparse.Namespace, checkpoint: dict | None, source: str | None, ranks: Ranks):
        self.args, self.root, self.ranks = args, Path(args.save_root), ranks
        self.device = pick_device(args.device)
        self.dtype = pick_precision(args.precision, self.device)
        data = {
            "root": args.DR, "frame_H": args.frame_H, "frame_W": args.frame_W, "train_vi_len": args.train_vi_len,
            "val_vi_len": args.val_vi_len, "partial": args.partial, "cache_dir": args.cache_dir,
            "workers": args.num_workers,
        }
        self.validation = Dataset_Dance(mode="val", **data).sequences
        if not args.test:
            self.data = Dataset_Dance(mode="train", **data)
            self.frames, self.poses = keep_on(self.device, self.data.frames, self.data.poses)
            # optimizer steps of every epoch; like the template's loader, the last incomplete batch is left out
            windows = (len(self.data.windows(data_share(args, epoch))) for epoch in range(args.num_epoch))
            self.steps = [args.epoch_steps or max(1, count // (args.batch_size * ranks.size)) for count in windows]

        torch.manual_seed(args.seed)
        sizes = {name: getattr(args, name) for name in ("arch", "F_dim", "L_dim", "N_dim", "D_out_dim", "prior")}
        self.model = build_model(sizes, (args.frame_H, args.frame_W), f"--arch {args.arch} with these sizes")
        if checkpoint:
            load_weights(self.model, checkpoint["state_dict"], source)
        self.model.to(self.device, memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.model) if args.ema else None
        self.optimizers = build_optimizers(args.optim, self.model, args.lr, args.weight_decay)
        if args.compile:
            compile_boxes(self.model)
        self.draws = Draws(args, ranks, self.device)
        self.update = Graphed(self._update, enabled=self.device.type == "cuda" and ranks.size == 1)
        self.kl_annealing = annealing(args)
        self.epoch, self.history, self.best_psnr, self.within, self.progress = 0, [], None, None, None
        if checkpoint:
            self._go_on_from(checkpoint, source)

    def step(self, plan: Plan, epoch: int, step: int, beta: float, tfr: float, lr: float) -> Tensor:
        """One optimizer step on the B clips of T frames that the plan has for it, skipped where a number is not finite.

        Returns (4,): loss, mse and kl, means over the whole batch of all processes, and 1 for a good step, else 0.
        """
        window, carried, shifts = (x[step] for x in plan)
        frames, poses = (
            to_device(gather(pictures, window, shifts), self.device) for pictures in (self.frames, self.poses)
        )  # (B, T, 3, H, W) uint8
        start = to_float(frames[:, 0])
        if self.carry is not None:
            start = torch.where(to_device(carried, self.device)[:, None, None, None], self.carry, start)
        B, T = window.shape
        feed_truth, target_is_truth = self.draws.teacher_forcing(B, T, epoch, step, tfr)
        told = round(B * self.ranks.size * self.args.posterior_share)  # of all processes
        latent = self.model.latent_shape(self.args.frame_H, self.args.frame_W)
        noise = self.draws.noise((B, T - 1, *latent), told, epoch, step)
        scalars = to_device(torch.tensor([beta, lr, 1 / self._horizon(epoch, step)]), self.device)
        numbers, self.carry = self.update(
            frames, self.draws.erase(poses, epoch, step), start, noise, feed_truth, scalars, told=told,
            target_is_truth=target_is_truth,
        )
        return numbers

    def _update(
        self, frames: Tensor, poses: Tensor, start: Tensor, noise: Tensor, feed_truth: Tensor | bool, scalars: Tensor,
        told: int, target_is_truth: bool,
    ) -> tuple[Tensor, Tensor]:
        """What a step does on the device: roll out, score, differentiate, change the weights.

        told: the posterior gives z for so many leading clips of all processes. Returns the numbers of `step` and the
        frames generated last, (B, 3, H, W).
        """
        frames, (beta, lr, share) = to_float(frames), scalars
        posterior_clips = self.ranks.count_share(told)
        with autocast(self.device, self.dtype):
            out = self.model.rollout(
                frames[:, 0], poses, start=start, truth=frames, noise=noise, posterior_clips=posterior_clips,
                feed_truth=feed_truth,
            )
        previous = torch.cat([start[:, None], out.frames[:, :-1]], dim=1)
        mse = frame_mse(out.frames, frames[:, 1:] if target_is_truth else previous)  # (B, T-1)
        kl = out.kl.flatten(2).sum(dim=2)  # nats per frame of the clips that the posterior saw
        kl = kl[:posterior_clips] if told else kl
        kl_mean = kl.detach().sum(dim=0).mean() * self.ranks.size / (told or len(frames) * self.ranks.size)
        kl_of_all = torch.nn.functional.pad(kl, (0, 0, 0, len(mse) - len(kl)))
        loss = frame_loss(self.args.loss, mse, kl_of_all, beta, values=frames[0, 0].numel()).mean()

        self.model.zero_grad(set_to_none=True)
        loss.backward()
        numbers = self.ranks.average(self.model, torch.stack([loss.detach(), mse.detach().mean(), kl_mean]))
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.args.clip_norm)
        good = torch.isfinite(norm) & torch.isfinite(numbers).all()
        set_learning_rate(self.optimizers, lr)
        step_if(good, self.optimizers)
        if self.averaged:
            move_towards(self.averaged, self.model, share)
        return torch.cat([numbers, good[None]]), torch.where(good, out.frames[:, -1].detach(), start)

    def train_epoch(self, epoch: int, beta: float, tfr: float) -> dict:
        """One pass over this epoch's windows, or over what is left of it. Returns the epoch's row of metrics.csv, not
        yet validated."""
        args, plan = self.args, Plan(*(self.ranks.share(x, dim=1).to(self.frames.device) for x in self._plan(epoch)))
        progress, steps = self._begin(epoch), self.steps[epoch]
        frames = args.batch_size * self.ranks.size * (args.train_vi_len - 1)  # predicted in one step
        begin = time.perf_counter() - progress.seconds
        bar = tqdm(
            range(progress.step, steps), desc=f"epoch {epoch}", unit="step", dynamic_ncols=True, initial=progress.step,
            total=steps,
        )
        for step in bar:
            lr = self._learning_rate(epoch, step)
            progress.add(self.step(plan, epoch, step, beta, tfr, lr), time.perf_counter() - begin)
            if progress.step % LOG_STEPS == 0 or progress.step == steps:
                (_, mse, kl), skipped = progress.means()
                bar.set_postfix_str(
                    f"mse {mse:.5f} kl {kl:.3g} beta {beta:.3g} tfr {tfr:.2f} lr {lr:.2e} "
                    f"{progress.rate(frames):.0f} frames/s" + f" skipped {skipped}" * (skipped > 0)
                )
                progress.stop_if_broken(args.max_bad_steps, f"{self.root / 'last.ckpt'}")
            if self.stops.save_now():
                self.save_within(epoch, progress, tfr, lr)
                self.stops.end_if_asked(f"in epoch {epoch} after step {progress.step} of {steps}")
        (loss, mse, kl), skipped = progress.means()
        if skipped:
            print(f"epoch {epoch}: {skipped} of {steps} steps skipped: their loss or gradient was not finite")
        return {
            "epoch": epoch, "loss": loss, "mse": mse, "kl": kl, "beta": beta, "tfr": tfr,
            "lr": self._learning_rate(epoch, steps - 1), "val_psnr": None, "seconds": time.perf_counter() - begin,
            "frames_per_second": progress.rate(frames),
        }

    def fit(self) -> None:
        """Train from the current epoch to the last; after each, validate, save and draw."""
        args = self.args
        board = Board(self.root, self.epoch) if args.tensorboard and self.ranks.rank == 0 else None
        if self.ranks.rank == 0:
            write_json(self.root / "environment.json", describe_environment(self.device, self.dtype))
        with Stops(args.save_minutes, self.ranks) as self.stops:
            for epoch in range(self.epoch, args.num_epoch):
                self.kl_annealing.current = epoch
                tfr = teacher_forcing_ratio(epoch, args.tfr, args.tfr_sde, args.tfr_d_step)
                row = self.train_epoch(epoch, self.kl_annealing.get_beta(), tfr)
                begin, last = time.perf_counter(), epoch + 1 == args.num_epoch
                if (epoch + 1) % args.val_every == 0 or last:
                    row["val_psnr"] = self.validate(epoch)
                row["seconds"] += time.perf_counter() - begin
                self.history.append(row)
                self.epoch = epoch + 1
                if self.ranks.rank == 0:
                    self.save(row, numbered=(epoch + 1) % args.per_save == 0 or last)
                if board:
                    board.write(row, [sequence.name for sequence in self.validation])
        if self.ranks.rank == 0:
            print(f"Best validation PSNR {self.best_psnr:.3f} dB. Weights: {self.root / 'best.ckpt'}")

    def validate(self, epoch: int) -> float | None:
        """Full-length prediction of the validation sequences from their first frames, z the prior's mean: mean PSNR.

        With several processes each predicts its share; the first scores and draws, the others return None.
        """
        sequences, mine = self.validation, self.validation[self.ranks.rank :: self.ranks.size]
        predicted = self.ranks.collect(predict(self.best_model, mine, self.dtype) if mine else [])
        if predicted is None:
            return None
        last = epoch + 1 == self.args.num_epoch or self.args.test
        average, scores = score_validation(self.root, epoch, sequences, predicted, last and not self.args.no_sanity)
        draw_validation(
            self.root, epoch, sequences, predicted, scores, self.args.train_vi_len, self.args.pictures,
            keep_all=self.args.store_visualization, films=last or self.args.store_visualization,
        )
        return average

    def save(self, row: dict, numbered: bool) -> None:
        """Write metrics.csv, the figures and the checkpoints of a finished epoch."""
        write_metrics(self.root / "metrics.csv", COLUMNS, self.history)
        if self.args.pictures != "none":
            draw_training(self.history, self.root / "figures")

        weights, everything = self._checkpoint(row)
        if row["val_psnr"] is not None and (self.best_psnr is None or row["val_psnr"] > self.best_psnr):
            self.best_psnr = everything["training"]["best_psnr"] = row["val_psnr"]
            save_checkpoint(self.root / "best.ckpt", weights)
        if numbered:
            save_checkpoint(self.root / f"epoch={row['epoch']}.ckpt", everything)
        save_checkpoint(self.root / "last.ckpt", everything)

    def save_within(self, epoch: int, progress: EpochProgress, tfr: float, lr: float) -> None:
        """Write last.ckpt in the middle of an epoch; every process waits until it is whole."""
        within = progress.saved(self.ranks.whole(self.carry))
        if self.ranks.rank == 0:
            row = {"epoch": epoch - 1, "lr": lr, "tfr": tfr, "val_psnr": None}
            save_checkpoint(self.root / "last.ckpt", self._checkpoint(row, within)[1])
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
            "averaged": self.averaged.state_dict() if self.averaged else None, "best_psnr": self.best_psnr,
        }
        optimizer = {type(o).__name__: {"state": o.state_dict()["state"]} for o in self.optimizers}
        return weights, weights | {"optimizer": optimizer, "training": training}

    @property
    def best_model(self) -> VAE_Model:
        """The weights to predict with: the averaged ones where there are."""
        return self.averaged or self.model

    def _go_on_from(self, checkpoint: dict, source: str) -> None:
        """Continue where the checkpoint was written; its optimizer, history and epoch's progress too if it has them."""
        self.epoch = checkpoint.get("last_epoch", -1) + 1
        training = check_training(checkpoint, source, COLUMNS)
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
        if self.averaged and training["averaged"]:
            load_weights(self.averaged, training["averaged"], source)

    def _begin(self, epoch: int) -> EpochProgress:
        """An epoch's progress: none, or that of the checkpoint which was written within it."""
        batch = self.args.batch_size * self.ranks.size
        progress = EpochProgress.start(self.args, batch, self.steps[epoch], self.device, before=self.progress)
        frame = (3, self.args.frame_H, self.args.frame_W)
        carry = progress.restore(self.within, frame) if self.within else None
        self.carry = None if carry is None else self.ranks.share(carry).to(self.device)
        self.within, self.progress = None, progress
        return progress

    def _learning_rate(self, epoch: int, step: int) -> float:
        """The scheduled rate of one step of an epoch."""
        args, done, total = self.args, sum(self.steps[:epoch]) + step, sum(self.steps)
        return learning_rate(args.lr_schedule, args.lr, epoch, done, total, args.warmup_steps, args.lr_min)

    def _plan(self, epoch: int) -> Plan:
        """The frames of every step of an epoch, for all processes."""
        args, partial, steps = self.args, data_share(self.args, epoch), self.steps[epoch]
        batch = args.batch_size * self.ranks.size
        if args.windows == "template":
            return template_plan(self.data.windows(partial), steps, batch)
        return shuffled_plan(
            self.data.clips_within(partial), args.train_vi_len, steps, batch, args.seed, epoch,
            random_start=args.random_start, persist=args.persist, shift=(args.shift_down, args.shift_right),
        )

    def _horizon(self, epoch: int, step: int) -> float:
        """Steps that the average of the weights goes back: the last `ema` of the run, fewer while it is young."""
        done, total = sum(self.steps[:epoch]) + step, sum(self.steps)
        return max(1.0, min(self.args.ema * total, (10 + done) / 9))


def main() -> None:
    args = parse_trainer()
    if args.dry_run:
        return dry_run(args)
    if args.test and not args.ckpt_path:
        raise InputError("--test validates a checkpoint: give it with --ckpt_path")
    if args.gpu > 1 and not is_launched():
        launch(main, args.gpu, args.device)
        return
    with join(args.device) as ranks, contextlib.ExitStack() as held:
        with ranks.first_alone():
            if ranks.rank == 0:
                anew = args.overwrite and not args.test
                held.enter_context(claim_folder(Path(args.save_root), anew, args.ckpt_path))
            checkpoint, source = find_start(args)
            trainer = Trainer(args, checkpoint, source, ranks)
        if args.test:
            trainer.validate(max(0, trainer.epoch - 1))
        elif trainer.epoch >= args.num_epoch:
            print(f"{source}: all {trainer.epoch} epochs are done; a larger --num_epoch goes on.")
        else:
            trainer.fit()


if __name__ == "__main__":
    run_program(main)
