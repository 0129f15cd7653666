"""Schedules as pure functions of progress: KL beta, teacher forcing ratio, learning rate. Nothing here has state to
save: a resumed run asks for the value at its epoch or step. `Schedules` has all of a run's, and its steps and epochs.

Cyclical annealing: Fu et al. 2019, "Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing".
"""

import argparse
import itertools
import math
from typing import NamedTuple

import numpy as np

from modules.options import kl_type

MONOTONIC_RATIO = 0.25
LR_MIN = 1e-6  # the last learning rate of cosine


def frange_cycle_linear(
    n_iter: int, start: float = 0.0, stop: float = 1.0, n_cycle: int = 1, ratio: float = 1.0
) -> np.ndarray:
    """beta for each of n_iter steps: n_cycle linear ramps start -> stop, then stop until the cycle ends.

    Each ramp fills `ratio` of its cycle and reaches both of its ends; with a ratio above 1 the ramp is cut off
    at the end of its cycle. A cycle or ramp of one step is `stop`.
    """
    beta = np.full(n_iter, float(stop))
    edges = [math.ceil(cycle * n_iter / n_cycle) for cycle in range(n_cycle + 1)]
    for begin, end in zip(edges, edges[1:], strict=False):
        ramp = round((end - begin) * ratio)
        if ramp > 1:
            beta[begin : min(begin + ramp, end)] = np.linspace(start, stop, ramp)[: end - begin]
    return beta


class kl_annealing:
    """The weight beta of the KL term, stepped with `update()` and read with `get_beta()`, as in the course.

    Cyclical: n_cycle ramps 0 -> beta_max, each filling `ratio` of its cycle. Monotonic: one ramp over the first
    quarter, then beta_max. None: 0, the KL term is left out. Constant: beta_max. After n_iter the last value stays.
    """

    def __init__(
        self, kl_anneal_type: str, n_iter: int, n_cycle: int = 10, ratio: float = 1.0, beta_max: float = 1.0,
        current: int = 0,
    ):
        kind = kl_type(kl_anneal_type)
        if kind == "Cyclical":
            self.table = frange_cycle_linear(n_iter, 0.0, beta_max, n_cycle, ratio)
        elif kind == "Monotonic":
            self.table = frange_cycle_linear(n_iter, 0.0, beta_max, 1, MONOTONIC_RATIO)
        else:
            self.table = np.full(n_iter, beta_max if kind == "Constant" else 0.0)
        self.current = current

    def update(self) -> None:
        """Move to the next step (an epoch, in the course)."""
        self.current += 1

    def get_beta(self) -> float:
        """beta of the current step."""
        return float(self.table[min(self.current, len(self.table) - 1)])


def teacher_forcing_ratio(epoch: int, tfr: float, tfr_sde: int, tfr_d_step: float, rule: str = "start") -> float:
    """The ratio of an epoch (0-based), never below 0, from `tfr` at the start.

    rule "start", as the template's help has it: tfr until epoch tfr_sde, then tfr_d_step less with every epoch.
    "interval", the report's: tfr_d_step less every tfr_sde epochs.
    """
    falls = max(0, epoch - tfr_sde) if rule == "start" else epoch // tfr_sde
    return max(0.0, round(tfr - tfr_d_step * falls, 9))


def learning_rate(schedule: str, lr: float, epoch: int, step: int, steps: int, warmup: int) -> float:
    """Learning rate of one optimizer step (0-based) of `steps`, after `warmup` steps of linear rise.

    "multistep": the template's MultiStepLR, x 0.1 from epoch 2 and again from epoch 5. "cosine": from lr to LR_MIN at
    the last step (Loshchilov & Hutter 2017). "constant": lr.
    """
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    if schedule == "multistep":
        return lr * 0.1 ** ((epoch >= 2) + (epoch >= 5))
    if schedule == "cosine":
        progress = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
        return LR_MIN + 0.5 * (lr - LR_MIN) * (1 + math.cos(math.pi * progress))
    return lr


def ema_share(ema: float, done: int, total: int) -> float:
    """How far the EMA goes towards the model's weights in a step: 1 / horizon. The horizon is the last `ema` of the
    run's steps, and shorter at the start of the run."""
    return 1 / max(1.0, min(ema * total, (10 + done) / 9))


def data_share(args: argparse.Namespace, epoch: int) -> float:
    """The leading share of the training frames that an epoch uses: --partial, less in the epochs of --fast_train."""
    fast = args.fast_train and epoch < args.fast_train_epoch
    return args.partial * (args.fast_partial if fast else 1)


class Now(NamedTuple):
    """What the schedules say for one step."""

    beta: float  # weight of the KL
    tfr: float  # teacher forcing ratio
    lr: float  # learning rate
    ema_share: float  # see ema_share
    posterior_share: float  # of the clips whose z is drawn from the posterior


class Schedules:
    """All schedules of a run, for the optimizer steps that each of its epochs has."""

    def __init__(self, args: argparse.Namespace, steps: list[int]):
        self.args, self.steps = args, steps
        *self.before, self.total = 0, *itertools.accumulate(steps)  # steps of the run before each epoch, and of it all
        horizon, kind = max(1, round(args.num_epoch * args.kl_horizon)), args.kl_anneal_type
        self.beta = kl_annealing(kind, horizon, args.kl_anneal_cycle, args.kl_anneal_ratio, args.kl_beta)

    def done(self, epoch: int, step: int = 0) -> int:
        """Optimizer steps of the run before this one."""
        return self.before[epoch] + step

    def at(self, epoch: int, step: int) -> Now:
        """The values for one step; step -1 is the epoch's last."""
        args, done = self.args, self.done(epoch, step % self.steps[epoch])
        self.beta.current = epoch
        return Now(
            beta=self.beta.get_beta(),
            tfr=teacher_forcing_ratio(epoch, args.tfr, args.tfr_sde, args.tfr_d_step, args.tfr_rule),
            lr=learning_rate(args.lr_schedule, args.lr, epoch, done, self.total, args.warmup_steps),
            ema_share=ema_share(args.ema, done, self.total),
            posterior_share=args.posterior_share + (args.posterior_end - args.posterior_share) * done / self.total,
        )

    def table(self) -> list[Now]:
        """The values of every epoch's last step."""
        return [self.at(epoch, -1) for epoch in range(len(self.steps))]

    def describe(self) -> str:
        """The schedules in words, a line each."""
        rows, args = self.table(), self.args
        lr = summarize([row.lr for row in rows])
        if args.lr_schedule == "cosine":
            lr = f"from {args.lr:.3g} down to {rows[-1].lr:.3g}"
        warmup = f", after {args.warmup_steps} steps of warm-up" if args.warmup_steps else ""
        z = "the prior in every clip"
        if args.z_from == "posterior":
            falls = f" at the start, {args.posterior_end:.3g} at the end" * (args.posterior_end != args.posterior_share)
            z = f"the posterior in a share of {args.posterior_share:.3g} of the clips{falls}"
        return "\n".join([
            f"{len(rows):,} epochs, {self.total:,} optimizer steps.",
            f"tfr (teacher forcing ratio): {summarize([row.tfr for row in rows])}.",
            f"beta (weight of the KL, {args.kl_anneal_type}): {summarize([row.beta for row in rows])}.",
            f"lr (learning rate, {args.lr_schedule}): {lr}{warmup}.",
            f"z is drawn from {z}.",
        ])


def summarize(values: list[float]) -> str:
    """A value per epoch in words: "1 until epoch 20, 0 from epoch 40"; ups and downs by their ends and how often."""
    first, last = values[0], values[-1]
    if len(set(values)) == 1:
        return f"{first:.3g} throughout"
    stays = next(epoch for epoch, value in enumerate(values) if value != first) - 1
    settles = len(values) - sum(1 for _ in itertools.takewhile(lambda value: value == last, reversed(values)))
    turns = sum((b - a) * (c - b) < 0 for a, b, c in zip(values, values[1:], values[2:], strict=False))
    if turns:
        return f"between {min(values):.3g} and {max(values):.3g}, turning {turns} times, {last:.3g} at the end"
    start = f"{first:.3g} until epoch {stays}" if stays else f"{first:.3g} in epoch 0"
    return f"{start}, {last:.3g} from epoch {settles}"
