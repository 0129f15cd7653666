"""Train a conditional VAE that predicts video from poses.

    python Trainer.py --DR LAB4_Dataset --save_root runs/best

One training step is `Trainer.step`, one epoch `Trainer.train_epoch`, the whole run `Trainer.fit`.
"""

import argparse
import copy
import csv
import io
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from dataloader import Dataset_Dance
from modules.board import Board
from modules.checkpoint import load_checkpoint, load_weights, model_from_checkpoint, save_checkpoint, write_atomically
from modules.dry_run import dry_run
from modules.evaluate import predict, score, warn_if_below_baseline
from modules.figures import draw_psnr_per_frame, draw_run
from modules.metrics import frame_mse
from modules.optimizers import build_optimizers, set_learning_rate
from modules.options import parse_trainer
from modules.panels import write_panels
from modules.pixels import to_float
from modules.runs import describe_environment, write_json
from modules.runtime import InputError, autocast, pick_device, pick_precision, random_generator, run_program
from modules.schedules import kl_annealing, learning_rate, teacher_forcing_ratio
from modules.vae import VAE_Model, frame_loss
from modules.video import save_gif
from modules.windows import Plan, gather, shuffled_plan, template_plan

COLUMNS = ("epoch", "loss", "mse", "kl", "beta", "tfr", "lr", "val_psnr", "seconds", "frames_per_second")
LOG_STEPS = 20  # steps between two reads of the numbers on the device
LATENT, FEED = range(2)  # the random streams of a run
# what cannot change when a run goes on
FIXED = ("arch", "F_dim", "L_dim", "N_dim", "D_out_dim", "prior", "frame_H", "frame_W", "seed")


class Trainer:
    """A run: model, optimizer, data on the device, history. Everything random is a function of (seed, epoch, step)."""

    def __init__(self, args: argparse.Namespace, checkpoint: dict | None):
        self.args, self.root = args, Path(args.save_root)
        self.device = pick_device(args.device)
        self.dtype = pick_precision(args.precision, self.device)
        data = {
            "root": args.DR, "frame_H": args.frame_H, "frame_W": args.frame_W, "train_vi_len": args.train_vi_len,
            "val_vi_len": args.val_vi_len, "partial": args.partial, "cache_dir": args.cache_dir,
            "workers": args.num_workers,
        }  # fmt: skip
        self.validation = Dataset_Dance(mode="val", **data).sequences
        if not args.test:
            self.data = Dataset_Dance(mode="train", **data)
            self.frames, self.poses = self.data.frames.to(self.device), self.data.poses.to(self.device)
            # optimizer steps of every epoch; like the template's loader, the last incomplete batch is left out
            windows = (len(self.data.windows(self._partial(epoch))) for epoch in range(args.num_epoch))
            self.steps = [args.epoch_steps or max(1, count // args.batch_size) for count in windows]

        torch.manual_seed(args.seed)
        self.model = VAE_Model(args.arch, args.F_dim, args.L_dim, args.N_dim, args.D_out_dim, args.prior)
        self.model.latent_shape(args.frame_H, args.frame_W)  # an error for sizes that the architecture can't take
        if checkpoint:
            load_weights(self.model, checkpoint["state_dict"], args.ckpt_path)
        self.model.to(self.device, memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.model) if args.ema else None
        self.optimizers = build_optimizers(args.optim, self.model, args.lr, args.weight_decay)
        self.kl_annealing = kl_annealing(
            args.kl_anneal_type, round(args.num_epoch * args.kl_horizon), args.kl_anneal_cycle, args.kl_anneal_ratio,
            args.kl_beta,
        )  # fmt: skip
        self.epoch, self.history, self.best_psnr = 0, [], None
        if checkpoint:
            self._go_on_from(checkpoint)

    def step(self, plan: Plan, epoch: int, step: int, beta: float, tfr: float, lr: float) -> Tensor:
        """One optimizer step on the B clips of T frames that the plan has for it. Returns mean loss, mse and kl."""
        window, carried, shifts = (x[step] for x in plan)
        frames = to_float(gather(self.frames, window, shifts))  # (B, T, 3, H, W)
        poses = to_float(gather(self.poses, window, shifts))
        start = torch.where(carried[:, None, None, None], self.carry, frames[:, 0]) if step else frames[:, 0]
        feed_truth, target_is_truth = self._teacher_forcing(window, epoch, step, tfr)
        posterior_clips = round(len(window) * self.args.posterior_share)
        noise = self._noise(window, posterior_clips, epoch, step)
        with autocast(self.device, self.dtype):
            out = self.model.rollout(
                frames[:, 0], poses, start=start, truth=frames, noise=noise, posterior_clips=posterior_clips,
                feed_truth=feed_truth,
            )  # fmt: skip
        previous = torch.cat([start[:, None], out.frames[:, :-1]], dim=1)
        mse = frame_mse(out.frames, frames[:, 1:] if target_is_truth else previous)  # (B, T-1)
        kl = out.kl.flatten(2).sum(dim=2)  # (n, T-1) nats per frame of the n clips that the posterior saw
        kl_of_all = torch.nn.functional.pad(kl, (0, 0, 0, len(mse) - len(kl)))
        loss = frame_loss(self.args.loss, mse, kl_of_all, beta, values=frames[0, 0].numel()).mean()

        self.model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.args.clip_norm)
        set_learning_rate(self.optimizers, lr)
        for optimizer in self.optimizers:
            optimizer.step()
        self._average(sum(self.steps[:epoch]) + step)
        self.carry = out.frames[:, -1].detach()
        return torch.stack([loss.detach(), mse.detach().mean(), kl.detach().mean()])

    def train_epoch(self, epoch: int, beta: float, tfr: float) -> dict:
        """One pass over this epoch's windows. Returns the epoch's row of metrics.csv, not yet validated."""
        args, plan = self.args, Plan(*(x.to(self.device) for x in self._plan(epoch)))
        steps, before = self.steps[epoch], sum(self.steps[:epoch])
        sums, begin, predicted = torch.zeros(3, device=self.device), time.perf_counter(), 0
        bar = tqdm(range(steps), desc=f"epoch {epoch}", unit="step", dynamic_ncols=True)
        for step in bar:
            lr = learning_rate(
                args.lr_schedule, args.lr, epoch, before + step, sum(self.steps), args.warmup_steps, args.lr_min
            )
            sums += self.step(plan, epoch, step, beta, tfr, lr)
            predicted += plan.windows.shape[1] * (args.train_vi_len - 1)
            if (step + 1) % LOG_STEPS == 0 or step + 1 == steps:
                loss, mse, kl = (sums / (step + 1)).tolist()
                rate = predicted / (time.perf_counter() - begin)
                bar.set_postfix_str(
                    f"mse {mse:.5f} kl {kl:.3g} beta {beta:.3g} tfr {tfr:.2f} lr {lr:.2e} {rate:.0f} frames/s"
                )
        return {
            "epoch": epoch, "loss": loss, "mse": mse, "kl": kl, "beta": beta, "tfr": tfr, "lr": lr, "val_psnr": None,
            "seconds": time.perf_counter() - begin, "frames_per_second": rate,
        }  # fmt: skip

    def fit(self) -> None:
        """Train from the current epoch to the last; after each, validate, save and draw."""
        args = self.args
        board = Board(self.root, self.epoch) if args.tensorboard else None
        write_json(self.root / "environment.json", describe_environment(self.device, self.dtype))
        for epoch in range(self.epoch, args.num_epoch):
            begin = time.perf_counter()
            self.kl_annealing.current = epoch
            tfr = teacher_forcing_ratio(epoch, args.tfr, args.tfr_sde, args.tfr_d_step)
            row = self.train_epoch(epoch, self.kl_annealing.get_beta(), tfr)
            last = epoch + 1 == args.num_epoch
            if (epoch + 1) % args.val_every == 0 or last:
                row["val_psnr"] = self.validate(epoch)
            row["seconds"] = time.perf_counter() - begin
            self.history.append(row)
            self.epoch = epoch + 1
            self.save(row, numbered=(epoch + 1) % args.per_save == 0 or last)
            if board:
                board.write(row, [sequence.name for sequence in self.validation])
        print(f"Best validation PSNR {self.best_psnr:.3f} dB. Weights: {self.root / 'best.ckpt'}")

    def validate(self, epoch: int) -> float:
        """Full-length prediction of the validation sequences from their first frames, z the prior's mean: mean PSNR."""
        sequences = self.validation
        predicted = predict(self.best_model, sequences, self.dtype)
        scores = {s.name: score(p, s.frames)[0].numpy() for s, p in zip(sequences, predicted, strict=True)}
        average = sum(values.mean() for values in scores.values()) / len(scores)
        print(f"epoch {epoch}: validation PSNR {average:.3f} dB")
        figures = self.root / "figures"
        frame_scores = {name: values.clip(max=100).tolist() for name, values in scores.items()}
        write_json(self.root / "validation.json", {"epoch": epoch, "psnr_per_frame": frame_scores})
        draw_psnr_per_frame(scores, figures / "psnr_per_frame.png", self.args.train_vi_len)
        name = f"validation_epoch={epoch}.gif" if self.args.store_visualization else "validation.gif"
        save_gif(figures / name, predicted[0][0])
        last = epoch + 1 == self.args.num_epoch or self.args.test
        for sequence, frames in zip(sequences, predicted, strict=True):
            stem = figures / name.replace("validation", sequence.name).removesuffix(".gif")
            write_panels(stem, frames[0], sequence.poses, sequence.frames, last or self.args.store_visualization)
        if not self.args.no_sanity and last:
            warn_if_below_baseline(scores, {s.name: s.frames for s in sequences})
        return float(average)

    def save(self, row: dict, numbered: bool) -> None:
        """Write metrics.csv, the figures and the checkpoints of a finished epoch."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        write_atomically(self.root / "metrics.csv", lambda file: file.write(text.getvalue().encode()))
        draw_run(self.history, self.root / "figures")

        weights = {
            "state_dict": self.best_model.state_dict(),
            "config": {"model": self.model.config, "frame_size": [self.args.frame_H, self.args.frame_W]},
            "last_epoch": row["epoch"], "lr": row["lr"], "tfr": row["tfr"], "val_psnr": row["val_psnr"],
            "settings": {key: value for key, value in vars(self.args).items() if key != "overwrite"},
        }  # fmt: skip
        if row["val_psnr"] is not None and (self.best_psnr is None or row["val_psnr"] > self.best_psnr):
            self.best_psnr = row["val_psnr"]
            save_checkpoint(self.root / "best.ckpt", weights)
        training = {
            "weights": self.model.state_dict(), "history": self.history,
            "averaged": self.averaged.state_dict() if self.averaged else None, "best_psnr": self.best_psnr,
        }  # fmt: skip
        optimizer = {type(optimizer).__name__: optimizer.state_dict() for optimizer in self.optimizers}
        everything = weights | {"optimizer": optimizer, "training": training}
        if numbered:
            save_checkpoint(self.root / f"epoch={row['epoch']}.ckpt", everything)
        save_checkpoint(self.root / "last.ckpt", everything)

    @property
    def best_model(self) -> VAE_Model:
        """The weights to predict with: the averaged ones where there are."""
        return self.averaged or self.model

    def _go_on_from(self, checkpoint: dict) -> None:
        """Continue after the checkpoint's last epoch; its optimizer and history too where it has them."""
        self.epoch = int(checkpoint.get("last_epoch", -1)) + 1
        training = checkpoint.get("training")
        print(f"Going on from {self.args.ckpt_path} at epoch {self.epoch}", end="")
        print("." if training else ": it holds weights only, the optimizer starts anew.")
        if training:
            load_weights(self.model, training["weights"], self.args.ckpt_path)
            for optimizer in self.optimizers:
                optimizer.load_state_dict(checkpoint["optimizer"][type(optimizer).__name__])
            self.history, self.best_psnr = training["history"], training["best_psnr"]
            if self.averaged and training["averaged"]:
                self.averaged.load_state_dict(training["averaged"])

    def _teacher_forcing(self, window: Tensor, epoch: int, step: int, tfr: float) -> tuple[Tensor | None, bool]:
        """Which true frames are fed (B, T-1), and whether the target is the true frame."""
        if self.args.tf_per == "epoch":
            coin = torch.rand((), generator=random_generator("cpu", self.args.seed, FEED, epoch)).item() < tfr
            if self.args.tf_decides == "target":
                return None, coin
            return torch.full_like(window[:, 1:], coin, dtype=torch.bool) if coin else None, True
        coins = torch.rand(
            window[:, 1:].shape, generator=self._random(FEED, epoch, step), device=self.device
        )
        return coins < tfr, True

    def _noise(self, window: Tensor, posterior_clips: int, epoch: int, step: int) -> Tensor:
        """The latent's noise for frames 2 … T, (B, T-1, *latent): zero, the prior's mean, where the posterior has a
        share of the clips and this clip is not among them."""
        B, T = window.shape
        shape = (B, T - 1, *self.model.latent_shape(self.args.frame_H, self.args.frame_W))
        noise = torch.randn(shape, generator=self._random(LATENT, epoch, step), device=self.device)
        if posterior_clips:
            noise[posterior_clips:] = 0
        return noise

    def _random(self, stream: int, epoch: int, step: int) -> torch.Generator:
        return random_generator(self.device, self.args.seed, stream, epoch, step)

    def _plan(self, epoch: int) -> Plan:
        """The frames of every step of an epoch."""
        args, partial, steps = self.args, self._partial(epoch), self.steps[epoch]
        if args.windows == "template":
            return template_plan(self.data.windows(partial), steps, args.batch_size)
        return shuffled_plan(
            self.data.clips_within(partial), args.train_vi_len, steps, args.batch_size, args.seed, epoch,
            random_start=args.random_start, persist=args.persist, shift=(args.shift_down, args.shift_right),
        )  # fmt: skip

    def _partial(self, epoch: int) -> float:
        """The share of the training frames that an epoch uses."""
        fast = self.args.fast_train and epoch < self.args.fast_train_epoch
        return self.args.partial * (self.args.fast_partial if fast else 1)

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """Exponential moving average of the weights over the last `ema` of the run; shorter while the run is young."""
        if self.averaged:
            horizon = max(1.0, min(self.args.ema * sum(self.steps), (10 + step) / 9))
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.model.parameters()), 1 / horizon)


def main() -> None:
    args = parse_trainer()
    if args.dry_run:
        return dry_run(args)
    last = Path(args.save_root) / "last.ckpt"
    if args.test and not args.ckpt_path:
        raise InputError("--test validates a checkpoint: give it with --ckpt_path")
    if args.gpu > 1:
        raise InputError(f"--gpu {args.gpu}: one GPU is used; expected --gpu 1")
    if last.exists() and args.overwrite:
        keep_aside(Path(args.save_root))
    if args.ckpt_path:
        checkpoint = load_checkpoint(args.ckpt_path)
        model, size = model_from_checkpoint(checkpoint, args.ckpt_path)
        vars(args).update(model.config)
        args.frame_H, args.frame_W = args.frame_H or size[0], args.frame_W or size[1]
    args.frame_H, args.frame_W = args.frame_H or 32, args.frame_W or 64
    if not args.ckpt_path and last.exists():
        args.ckpt_path = str(last)
        checkpoint = load_checkpoint(last)
        check_same_run(args, checkpoint)
    trainer = Trainer(args, checkpoint if args.ckpt_path else None)
    if args.test:
        trainer.validate(max(0, trainer.epoch - 1))
    elif trainer.epoch >= args.num_epoch:
        print(f"{args.ckpt_path}: all {trainer.epoch} epochs are done; a larger --num_epoch goes on.")
    else:
        trainer.fit()


def keep_aside(root: Path) -> None:
    """Rename the folder of an old run to the first free of ROOT.old1, ROOT.old2, …"""
    number = 1
    while (aside := root.with_name(f"{root.name}.old{number}")).exists():
        number += 1
    root.rename(aside)
    print(f"Kept the old run as {aside}")


def check_same_run(args: argparse.Namespace, checkpoint: dict) -> None:
    """InputError if the command would go on with a run that was started with another model, frame size or seed."""
    settings = checkpoint.get("settings", {})
    for name in FIXED:
        if name in settings and settings[name] != getattr(args, name):
            raise InputError(
                f"--{name} {getattr(args, name)}: the run in {args.save_root} was started with {settings[name]}; "
                "choose another --save_root, or --overwrite to start anew"
            )


if __name__ == "__main__":
    run_program(main)
