"""What is random in a training step: a function of (seed, epoch, step), drawn for the whole batch of all processes."""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from modules.device import random_generator
from modules.train.distributed import Ranks
from modules.train.feed import erase_boxes

LATENT, FEED, ERASE = range(3)  # streams


class Draws:
    """The random numbers of a run's steps on `device`. Every process gets its share of the whole batch's."""

    def __init__(self, args: argparse.Namespace, ranks: Ranks, device: torch.device):
        self.args, self.ranks, self.device = args, ranks, device

    def teacher_forcing(self, B: int, T: int, epoch: int, step: int, tfr: float) -> tuple[Tensor | bool, bool]:
        """Which true frames are fed, (B, T-1) bool or one for all, and whether the target is the true frame."""
        if self.args.tf_per == "epoch":
            coin = torch.rand((), generator=random_generator("cpu", self.args.seed, FEED, epoch)).item() < tfr
            if self.args.tf_decides == "target":
                return False, coin
            return coin, True
        return self._draw(torch.rand, (B, T - 1), FEED, epoch, step) < tfr, True

    def noise(self, shape: tuple[int, ...], told: int, epoch: int, step: int) -> Tensor:
        """The latent's noise, shape (B, T-1, *latent): zero, the prior's mean, where the posterior has the first `told`
        clips of the whole batch and this clip is not among them."""
        noise = self._draw(torch.randn, shape, LATENT, epoch, step)
        if told:
            noise[self.ranks.count_share(told) :] = 0
        return noise

    def erase(self, poses: Tensor, epoch: int, step: int) -> Tensor:
        """Pose pictures (B, T, 3, H, W) with boxes made blank in --pose_erase of the clips."""
        if not self.args.pose_erase:
            return poses
        return erase_boxes(poses, self.args.pose_erase, self._draw(torch.rand, (len(poses), 5), ERASE, epoch, step))

    def _draw(self, draw: Callable, shape: tuple[int, ...], stream: int, epoch: int, step: int) -> Tensor:
        generator = random_generator(self.device, self.args.seed, stream, epoch, step)
        whole = draw((shape[0] * self.ranks.size, *shape[1:]), generator=generator, device=self.device)
        return self.ranks.share(whole)
