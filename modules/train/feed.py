"""What a training step is fed: a Batch, made by Feed. Everything random in it is a function of (seed, epoch, step). It
is drawn for the whole batch of all processes, and every process keeps its share.

A new augmentation of the images is a line in `Feed.batch`.
"""

import argparse
import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dataloader import Dataset_Dance
from modules.data.pixels import to_float
from modules.device import derive_seed, random_generator
from modules.train.distributed import Ranks
from modules.train.schedules import Schedules, data_share

LATENT, COIN, BLOBS, STRENGTHS, PATCHES = range(5)  # streams of random numbers


class Batch(NamedTuple):
    """One step's B clips of T frames, and the schedules' values for it."""

    x_1: Tensor  # (B, 3, H, W) uint8
    last: Tensor | None  # (B, K, 3, H, W) the last frames of a clip's first step, see VAE_Model.rollout; None: x_1
    frames: Tensor  # (B, T, 3, H, W) uint8, true frames in a row: what is predicted are frames[:, 1:]
    poses: Tensor  # (B, T, 3, H, W) uint8
    noise: Tensor  # (B, T-1, *latent) of z, from N(0, I); zero for clips whose z is the mean of the prior
    from_posterior: Tensor  # (B, 1, 1, 1) bool, whether a clip's z is the posterior's
    beta: Tensor  # (B, 1) weight of the KL
    lr: Tensor  # () learning rate
    ema_share: Tensor  # () how far the EMA goes towards the model's weights
    teacher_forcing: bool  # the last frame of a step is the true one, not the generated one
    target_is_truth: bool  # else, in the report, the target is the previously generated frame


class Feed:
    """Makes the batches of a run from its data. steps: optimizer steps of every epoch; like the template's loader, the
    last incomplete batch is left out. latent: the shape of z for one frame. last_frames: how many the prior sees."""

    def __init__(
        self, args: argparse.Namespace, data: Dataset_Dance, latent: tuple[int, int, int], ranks: Ranks,
        device: torch.device, last_frames: int = 1,
    ):
        self.args, self.data, self.latent, self.ranks, self.device = args, data, latent, ranks, device
        self.last_frames = last_frames if args.windows == "anywhere" else 1  # the template's clips begin with x_1
        self.batch_size = args.batch_size * ranks.size  # of all processes
        shares = [data_share(args, epoch) for epoch in range(args.num_epoch)]
        for part in dict.fromkeys(shares):
            flag = "--partial" if part == args.partial else "--partial times --fast_partial"
            data.check_share(part, flag, self.last_frames - 1)
        windows = {part: len(data.windows(part)) for part in dict.fromkeys(shares)}
        self.steps = [args.epoch_steps or max(1, windows[part] // self.batch_size) for part in shares]
        self.schedules = Schedules(args, self.steps)

    @functools.cached_property
    def images(self) -> list[Tensor]:
        """All frames and all poses on the device, each (N, 3, H, W) uint8; the course's take 288 MB at 32x64."""
        return [images.to(self.device) for images in (self.data.frames, self.data.poses)]

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step `first` on."""
        plan = Plan(*(self.ranks.share(x, dim=1).to(self.device) for x in self._plan(epoch)))
        for step in range(first, self.steps[epoch]):
            yield self.batch(epoch, step, plan.windows[step], plan.shifts[step])

    def batch(self, epoch: int, step: int, windows: Tensor, shifts: Tensor) -> Batch:
        """One batch. windows, shifts: the plan's for this step, see Plan."""
        args, now = self.args, self.schedules.at(epoch, step)
        frames, poses = (gather(images, windows, shifts) for images in self.images)
        x_1, last, before = frames[:, 0], None, self.last_frames
        if args.windows == "anywhere" and (args.last_frame == "previous" or args.last_noise):
            last = to_float(frames[:, 1 : before + 1] if args.last_frame == "previous" else frames[:, :1])
            last = self._disturbed(last.expand(-1, before, -1, -1, -1), to_float(x_1), epoch, step)
        frames, poses = frames[:, before:], poses[:, before:]

        # the first clips of the batch take z from the posterior, the others take the prior's mean
        count = max(1, round(self.batch_size * now.posterior_share))
        clips = torch.arange(self.batch_size, device=self.device) < count
        from_posterior = self.ranks.share(clips).reshape(-1, 1, 1, 1)
        beta, lr, ema_share = torch.tensor([now.beta, now.lr, now.ema_share], device=self.device)
        noise = self._draw((poses.shape[1] - 1, *self.latent), LATENT, epoch, step)
        if args.z_from == "prior":  # the report: z is drawn from the prior in every clip, and every clip has its KL
            from_posterior, beta = from_posterior & False, beta.expand(len(windows), 1)
        else:
            noise, beta = noise * from_posterior[:, None], beta * from_posterior.flatten(1)

        coin, coin_for_input = toss(args.seed, epoch, now.tfr), args.tf_decides == "feed"
        return Batch(
            x_1, last, frames, poses, noise, from_posterior, beta, lr, ema_share,
            teacher_forcing=coin and coin_for_input, target_is_truth=coin or coin_for_input,
        )

    def _plan(self, epoch: int) -> "Plan":
        """The frames of every step of an epoch, for all processes."""
        args, partial, steps = self.args, data_share(self.args, epoch), self.steps[epoch]
        if args.windows == "template":
            return template_plan(self.data.windows(partial), steps, self.batch_size)
        return shuffled_plan(
            self.data.clips_within(partial), args.train_vi_len, steps, self.batch_size, args.seed, epoch,
            before=self.last_frames - 1, random_start=args.random_start, shift=largest_shift(args),
        )

    def _draw(self, shape: tuple[int, ...], stream: int, epoch: int, step: int, draw=torch.randn) -> Tensor:
        """Random numbers for this process's clips (B, *shape)."""
        generator = random_generator(self.device, self.args.seed, stream, epoch, step)
        return self.ranks.share(draw((self.batch_size, *shape), generator=generator, device=self.device))

    def _disturbed(self, frames: Tensor, x_1: Tensor, epoch: int, step: int) -> Tensor:
        """Last frames (B, K, 3, H, W) with errors like those of a rollout, so that the network learns to correct them
        (compare GameNGen, Valevski et al. 2024): Gaussian noise on a coarse grid, and x_1 (B, 3, H, W) mixed in, with a
        share that is random on another coarse grid, so that in some places nothing else is left. Both are the same for
        the K frames of a clip. Each clip draws a strength in [0, 1], which multiplies both flags."""
        size = frames.shape[-2:]
        grid = [round(4 * side / min(size)) for side in size]  # 4x8 for 32x64, as large as the multi-scale latent
        blobs, patches = (F.interpolate(self._draw((channels, *grid), stream, epoch, step), size, mode="bilinear")
                          for channels, stream in ((3, BLOBS), (1, PATCHES)))
        strength = self._draw((1, 1, 1), STRENGTHS, epoch, step, draw=torch.rand)
        noisy = (frames + (self.args.last_noise * strength * blobs)[:, None]).clamp(0, 1)
        share = (self.args.last_mix * strength * patches.abs()).clamp(max=1)
        return torch.lerp(noisy, x_1[:, None], share[:, None])


def toss(seed: int, epoch: int, tfr: float) -> bool:
    """The epoch's coin of teacher forcing: True with probability `tfr`."""
    return torch.rand((), generator=random_generator("cpu", seed, COIN, epoch)).item() < tfr


def largest_shift(args: argparse.Namespace) -> tuple[int, int]:
    """The pixels (down, right) that clips are moved by at most: the flags' at 32x64, a larger frame's are as many times
    more as its sides are."""
    down, right = round(args.shift_down * args.frame_H / 32), round(args.shift_right * args.frame_W / 64)
    return min(down, args.frame_H), min(right, args.frame_W)


class Plan(NamedTuple):
    """An epoch of S steps on B clips of T frames."""

    windows: Tensor  # (S, B, 1 + T) int64, frame numbers in the data set: x_1, then T or more frames in a row
    shifts: Tensor  # (S, B, 2) int64: all images of the clip are moved by so many pixels (down, right)


def template_plan(windows: Tensor, steps: int, batch: int) -> Plan:
    """The template's order: windows (n, T) one after the other, from the first again when they are used up."""
    order = windows[torch.arange(steps * batch) % len(windows)].reshape(steps, batch, -1)
    return Plan(torch.cat([order[..., :1], order], dim=-1), torch.zeros(steps, batch, 2, dtype=torch.long))


def shuffled_plan(
    clips: list[tuple[int, int]], T: int, steps: int, batch: int, seed: int, epoch: int, *, before: int = 0,
    random_start: bool = False, shift: tuple[int, int] = (0, 0),
) -> Plan:
    """Windows that start anywhere in a clip [begin, end), each possible start once before any comes again.

    before: frames before the T, which the prior sees too. random_start: x_1 is drawn from anywhere in the clip, so that
    copying it is no shortcut; else it is the first of the T. shift: the largest shift in pixels (down, right).
    """
    T, rng = T + before, np.random.default_rng(derive_seed(seed, epoch))
    clips = [(begin, end) for begin, end in clips if end - begin >= T]
    starts = np.concatenate([np.arange(begin, end - T + 1) for begin, end in clips])
    bounds = np.concatenate([np.tile((begin, end), (end - begin - T + 1, 1)) for begin, end in clips])
    rounds = -(-steps * batch // len(starts))
    chosen = np.concatenate([rng.permutation(len(starts)) for _ in range(rounds)])[: steps * batch]
    start = starts[chosen].reshape(steps, batch)
    begin, end = bounds[chosen].reshape(steps, batch, 2).transpose(2, 0, 1)
    first = rng.integers(begin, end) if random_start else start + before
    moved = rng.integers([-shift[0], -shift[1]], [shift[0] + 1, shift[1] + 1], (steps, batch, 2))
    windows = np.concatenate([first[..., None], start[..., None] + np.arange(T)], axis=-1)
    return Plan(torch.from_numpy(windows), torch.from_numpy(moved))


def gather(images: Tensor, windows: Tensor, shifts: Tensor) -> Tensor:
    """Clips (B, T, 3, H, W) uint8 of images (N, 3, H, W), moved by shifts (B, 2); edges are replicated."""
    H, W = images.shape[-2:]
    rows = (torch.arange(H, device=images.device) - shifts[:, :1]).clamp(0, H - 1)  # (B, H)
    columns = (torch.arange(W, device=images.device) - shifts[:, 1:]).clamp(0, W - 1)  # (B, W)
    clips = images[windows[:, :, None, None], :, rows[:, None, :, None], columns[:, None, None, :]]  # (B, T, H, W, 3)
    return clips.permute(0, 1, 4, 2, 3)
