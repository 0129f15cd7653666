"""What a training step is fed: a Batch, made by Feed. Everything random in it is a function of (seed, epoch, step),
drawn for the whole batch of all processes at once; every process keeps its share.

A new augmentation of the pictures is a line in `Feed.batch`.
"""

import argparse
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataloader import Dataset_Dance
from modules.device import derive_seed, keep_on, random_generator, to_device
from modules.train.distributed import Ranks
from modules.train.schedules import Schedules, data_share

LATENT, FEED = range(2)  # streams of random numbers


class Batch(NamedTuple):
    """One step's B clips of T frames, and the schedules' values for it."""

    frames: Tensor  # (B, T, 3, H, W) uint8, the true frames; frames[:, 0] is x_1
    poses: Tensor  # (B, T, 3, H, W) uint8
    noise: Tensor  # (B, T-1, *latent) of z, from N(0, I); zero for clips whose z is the mean of the prior
    beta: Tensor  # () weight of the KL
    lr: Tensor  # () learning rate
    averaging: Tensor  # () share of the way that averaged weights go
    posterior_clips: int  # so many leading clips have a posterior
    posterior_share: float  # the share of such clips in the batch of all processes
    feed_truth: bool  # teacher forcing: the true frames are fed, not the generated ones
    target_is_truth: bool  # else, in the report, the previously generated frame


class Feed:
    """Makes the batches of a run from its data. steps: optimizer steps of every epoch; like the template's loader, the
    last incomplete batch is left out. latent: the shape of z for one frame."""

    def __init__(
        self, args: argparse.Namespace, data: Dataset_Dance, latent: tuple[int, int, int], ranks: Ranks,
        device: torch.device,
    ):
        self.args, self.data, self.latent, self.ranks, self.device = args, data, latent, ranks, device
        self.batch_size = args.batch_size * ranks.size  # of all processes
        shares = [data_share(args, epoch) for epoch in range(args.num_epoch)]
        for part in dict.fromkeys(shares):
            data.check_share(part, "--partial" if part == args.partial else "--partial times --fast_partial")
        windows = [len(data.windows(part)) for part in shares]
        self.steps = [args.epoch_steps or max(1, count // self.batch_size) for count in windows]
        self.schedules = Schedules(args, self.steps)

    @functools.cached_property
    def pictures(self) -> list[Tensor]:
        """All frames and all poses, each (N, 3, H, W) uint8, decoded when they are first used."""
        return keep_on(self.device, self.data.frames, self.data.poses)

    def begin(self, epoch: int) -> None:
        """Plan an epoch."""
        place = self.pictures[0].device
        self.epoch, self.plan = epoch, Plan(*(self.ranks.share(x, dim=1).to(place) for x in self._plan(epoch)))

    def batch(self, step: int) -> Batch:
        """The batch of one step of the epoch that has begun."""
        args, epoch, now = self.args, self.epoch, self.schedules.at(self.epoch, step)
        window, shifts = (x[step] for x in self.plan)
        frames, poses = (
            to_device(gather(pictures, window, shifts), self.device) for pictures in self.pictures
        )
        noise = self._draw(torch.randn, (*window[:, 1:].shape, *self.latent), LATENT, epoch, step)
        of_all = max(1, round(self.batch_size * now.posterior_share))
        posterior_clips = self.ranks.count_share(of_all)
        if args.z_from == "posterior":
            noise[posterior_clips:] = 0

        coin = torch.rand((), generator=random_generator("cpu", args.seed, FEED, epoch)).item() < now.tfr
        decides_feed = args.tf_decides == "feed"
        beta, lr, averaging = to_device(torch.tensor([now.beta, now.lr, now.averaging]), self.device)
        return Batch(
            frames, poses, noise, beta, lr, averaging, posterior_clips, of_all / self.batch_size,
            feed_truth=coin and decides_feed, target_is_truth=coin or decides_feed,
        )

    def _plan(self, epoch: int) -> "Plan":
        """The frames of every step of an epoch, for all processes."""
        args, partial, steps = self.args, data_share(self.args, epoch), self.steps[epoch]
        if args.windows == "template":
            return template_plan(self.data.windows(partial), steps, self.batch_size)
        return shuffled_plan(
            self.data.clips_within(partial), args.train_vi_len, steps, self.batch_size, args.seed, epoch,
            random_start=args.random_start, shift=largest_shift(args),
        )

    def _draw(self, draw: Callable, shape: tuple[int, ...], stream: int, epoch: int, step: int) -> Tensor:
        generator = random_generator(self.device, self.args.seed, stream, epoch, step)
        whole = draw((shape[0] * self.ranks.size, *shape[1:]), generator=generator, device=self.device)
        return self.ranks.share(whole)


def largest_shift(args: argparse.Namespace) -> tuple[int, int]:
    """The pixels (down, right) that clips are moved by at most: the flags' at 32x64, a larger frame's are as many times
    more as its sides are."""
    down, right = round(args.shift_down * args.frame_H / 32), round(args.shift_right * args.frame_W / 64)
    return min(down, args.frame_H), min(right, args.frame_W)


class Plan(NamedTuple):
    """An epoch of S steps on B clips of T frames."""

    windows: Tensor  # (S, B, T) int64, frame numbers in the data set; [..., 0] is x_1
    shifts: Tensor  # (S, B, 2) int64: all pictures of the clip are moved by so many pixels (down, right)


def template_plan(windows: Tensor, steps: int, batch: int) -> Plan:
    """The template's order: windows (n, T) one after the other, from the first again when they are used up."""
    order = windows[torch.arange(steps * batch) % len(windows)].reshape(steps, batch, -1)
    return Plan(order, torch.zeros(steps, batch, 2, dtype=torch.long))


def shuffled_plan(
    clips: list[tuple[int, int]],
    T: int,
    steps: int,
    batch: int,
    seed: int,
    epoch: int,
    *,
    random_start: bool = False,
    shift: tuple[int, int] = (0, 0),
) -> Plan:
    """Windows that start anywhere in a clip [begin, end), each possible start once before any comes again.

    random_start: x_1 is drawn from anywhere in the clip, so that copying the last frame is no shortcut.
    shift: the largest shift in pixels (down, right).
    """
    rng = np.random.default_rng(derive_seed(seed, epoch))
    clips = [(begin, end) for begin, end in clips if end - begin >= T]
    starts = np.concatenate([np.arange(begin, end - T + 1) for begin, end in clips])
    bounds = np.concatenate([np.tile((begin, end), (end - begin - T + 1, 1)) for begin, end in clips])
    rounds = -(-steps * batch // len(starts))
    chosen = np.concatenate([rng.permutation(len(starts)) for _ in range(rounds)])[: steps * batch]
    start = starts[chosen].reshape(steps, batch)
    begin, end = bounds[chosen].reshape(steps, batch, 2).transpose(2, 0, 1)
    first = rng.integers(begin, end) if random_start else start
    moved = rng.integers([-shift[0], -shift[1]], [shift[0] + 1, shift[1] + 1], (steps, batch, 2))
    windows = start[..., None] + np.arange(T)
    windows[..., 0] = first
    return Plan(torch.from_numpy(windows), torch.from_numpy(moved))


def gather(pictures: Tensor, windows: Tensor, shifts: Tensor) -> Tensor:
    """Clips (B, T, 3, H, W) uint8 of pictures (N, 3, H, W), moved by shifts (B, 2); edges are replicated."""
    H, W = pictures.shape[-2:]
    rows = (torch.arange(H, device=pictures.device) - shifts[:, :1]).clamp(0, H - 1)  # (B, H)
    columns = (torch.arange(W, device=pictures.device) - shifts[:, 1:]).clamp(0, W - 1)  # (B, W)
    clips = pictures[windows[:, :, None, None], :, rows[:, None, :, None], columns[:, None, None, :]]  # (B, T, H, W, 3)
    return clips.permute(0, 1, 4, 2, 3)
