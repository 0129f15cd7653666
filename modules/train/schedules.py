"""Schedules as pure functions of progress: KL beta, teacher forcing ratio, learning rate. Nothing here has state to
save: a resumed run asks for the value at its epoch or step.

Cyclical annealing: Fu et al. 2019, "Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing".
"""

import argparse
import math

import numpy as np

from modules.runtime import InputError

KL_TYPES = ("Cyclical", "Monotonic", "None", "Constant")
_SPELLINGS = {
    "cyclical": "Cyclical", "cycle": "Cyclical", "cyclic": "Cyclical",
    "monotonic": "Monotonic", "linear": "Monotonic",
    "none": "None", "no": "None", "without": "None",
    "constant": "Constant",
}
MONOTONIC_RATIO = 0.25


def kl_type(name: str) -> str:
    """The canonical name of a KL annealing type from any spelling in use. InputError for others."""
    if str(name).lower() not in _SPELLINGS:
        raise InputError(f"--kl_anneal_type {name}: expected one of {', '.join(KL_TYPES)}")
    return _SPELLINGS[str(name).lower()]


def frange_cycle_linear(
    n_iter: int, start: float = 0.0, stop: float = 1.0, n_cycle: int = 1, ratio: float = 1.0
) -> np.ndarray:
    """beta for each of n_iter steps: n_cycle linear ramps start -> stop, then stop until the cycle ends.

    Each ramp fills `ratio` of its cycle and reaches both of its ends. A cycle or ramp of one step is `stop`.
    """
    beta = np.full(n_iter, float(stop))
    edges = [math.ceil(cycle * n_iter / n_cycle) for cycle in range(n_cycle + 1)]
    for begin, end in zip(edges, edges[1:], strict=False):
        ramp = round((end - begin) * ratio)
        if ramp > 1:
            beta[begin : begin + ramp] = np.linspace(start, stop, ramp)
    return beta


class kl_annealing:
    """The weight beta of the KL term, stepped with `update()` and read with `get_beta()`, as in the course.

    Cyclical: n_cycle ramps 0 -> beta_max, each filling `ratio` of its cycle. Monotonic: one ramp over the first
    quarter, then beta_max. None: 0, the KL term is left out. Constant: beta_max. After n_iter the last value stays.
    """

    def __init__(
        self,
        kl_anneal_type: str,
        n_iter: int,
        n_cycle: int = 10,
        ratio: float = 1.0,
        beta_max: float = 1.0,
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
        """Go on to the next step (an epoch, in the course)."""
        self.current += 1

    def get_beta(self) -> float:
        """beta of the current step."""
        return float(self.table[min(self.current, len(self.table) - 1)])


def teacher_forcing_ratio(epoch: int, tfr: float, tfr_sde: int, tfr_d_step: float) -> float:
    """Starts at `tfr` and loses `tfr_d_step` every `tfr_sde` epochs (0-based), never below 0."""
    return max(0.0, round(tfr - tfr_d_step * (epoch // tfr_sde), 9))


def learning_rate(schedule: str, lr: float, epoch: int, step: int, steps: int, warmup: int, lr_min: float) -> float:
    """Learning rate of one optimizer step (0-based) of `steps`, after `warmup` steps of linear rise.

    "multistep": the template's MultiStepLR, x 0.1 from epoch 2 and again from epoch 5. "cosine": from lr to lr_min at
    the last step (Loshchilov & Hutter 2017). "constant": lr.
    """
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    if schedule == "multistep":
        return lr * 0.1 ** ((epoch >= 2) + (epoch >= 5))
    if schedule == "cosine":
        progress = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
        return lr_min + 0.5 * (lr - lr_min) * (1 + math.cos(math.pi * progress))
    return lr


def annealing(args: argparse.Namespace) -> kl_annealing:
    """The schedule of beta that the flags ask for, in epochs."""
    return kl_annealing(
        args.kl_anneal_type, round(args.num_epoch * args.kl_horizon), args.kl_anneal_cycle, args.kl_anneal_ratio,
        args.kl_beta,
    )


def data_share(args: argparse.Namespace, epoch: int) -> float:
    """The leading share of the training frames that an epoch uses: --partial, less in the epochs of --fast_train."""
    fast = args.fast_train and epoch < args.fast_train_epoch
    return args.partial * (args.fast_partial if fast else 1)
