"""Training with several processes, one per GPU: `torchrun --nproc_per_node N Trainer.py …`.

Every process plans the whole batch of size x B clips and takes every size-th clip, so the numbers are those of one
process with that batch, up to rounding. Gradients are averaged after `backward`, in one place; DistributedDataParallel
is not used, since what is trained is a rollout that calls its networks many times and not one `forward`.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from modules.progress import Progress
from modules.runtime import InputError

PATIENCE = timedelta(minutes=30)  # the longest wait for another process, which may decode or draw


class LostProcess(InputError):
    """Another process of this job has ended."""


class Ranks:
    """The processes of a job: this one is `rank` of `size`. With one process nothing is sent and nothing is copied."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size, self.main = rank, size, rank == 0

    def share(self, whole: Tensor, dim: int = 0) -> Tensor:
        """This rank's clips of the whole batch: every size-th along `dim`."""
        return whole if self.size == 1 else whole[(slice(None),) * dim + (slice(self.rank, None, self.size),)]

    def average_gradients(self, model: nn.Module) -> None:
        """Replace the model's gradients by their mean over all ranks. A parameter without one (frozen, not used) has
        none on any rank, and is left alone, as by a single process."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        means = self.average(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, mean in zip(gradients, means.split([x.numel() for x in gradients]), strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def average(self, values: Tensor) -> Tensor:
        """The mean of `values` (n,) over all ranks."""
        if self.size == 1:
            return values
        with lost_process():
            dist.all_reduce(values)
        return values / self.size

    def max(self, value: int) -> int:
        """The highest of all ranks' values, the same on every rank. Sent through the hosts: no GPU waits for it."""
        if self.size == 1:
            return value
        answer = torch.tensor(value)
        with lost_process():
            dist.all_reduce(answer, dist.ReduceOp.MAX)
        return int(answer)

    def wait(self) -> None:
        """Until every rank is here."""
        self.max(0)

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Rank 0 runs the block before the others: it claims the folder, decodes, and prints errors once."""
        if not self.main:
            try:
                self.wait()
            except LostProcess:
                raise SystemExit(2) from None  # rank 0 has printed the reason
        yield
        if self.main:
            self.wait()


@contextlib.contextmanager
def lost_process() -> Iterator[None]:
    """Sending to the other processes: a connection that ends is one line instead of a traceback."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # gloo's and NCCL's errors
        reason = str(error).splitlines()[0][:120]
        raise LostProcess(f"another process of this job ended ({reason}); the same command resumes the run") from None


@contextlib.contextmanager
def join(device: str | None) -> Iterator[Ranks]:
    """This process's place among those that torchrun has started. Ranks above 0 print nothing."""
    if not dist.is_torchelastic_launched():
        yield Ranks()
        return
    local, on_gpu = int(os.environ["LOCAL_RANK"]), device != "cpu" and torch.cuda.is_available()
    if on_gpu and local >= torch.cuda.device_count():
        raise InputError(f"process {local + 1} of torchrun on {torch.cuda.device_count()} GPUs; expected one a GPU, or "
                         "--device cpu")
    if on_gpu:
        torch.cuda.set_device(local)
    backend = "cpu:gloo,cuda:nccl" if on_gpu and dist.is_nccl_available() else "gloo"  # there is no NCCL on Windows
    with lost_process():
        dist.init_process_group(backend, timeout=PATIENCE)
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    if not ranks.main:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        Progress.hidden = True
    yield ranks
    dist.destroy_process_group()
