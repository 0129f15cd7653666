"""Training with several processes, one per GPU: `torchrun … Trainer.py …`, or `Trainer.py --gpu N` on one machine.

Every process plans the whole batch of size x B clips and takes every size-th clip, so the numbers are those of one
process with that batch, up to rounding. Gradients are averaged after `backward`, in one place; DistributedDataParallel
is not used, since what is trained is a rollout that calls its boxes many times and not one `forward`.
"""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn

from modules.progress import Progress
from modules.runtime import InputError, heard

PATIENCE = timedelta(minutes=30)  # the longest wait for another process: one may validate alone, or decode pictures
TORCHRUN = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what it sets for every process
OWN_SESSION = hasattr(os, "setsid")  # not on Windows, whose console tells Ctrl-C to every process itself
GRACE_SECONDS = 5  # between the end of one process and that of the others


class LostProcess(InputError):
    """Another process of this job has ended."""


class Ranks:
    """The processes of a job: this one is `rank` of `size`. With one process nothing is sent and nothing is copied."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size

    def share(self, whole: Tensor, dim: int = 0) -> Tensor:
        """This rank's clips of the whole batch: every size-th along `dim`, so that leading clips stay leading."""
        return whole if self.size == 1 else whole[(slice(None),) * dim + (slice(self.rank, None, self.size),)]

    def average_gradients(self, model: nn.Module) -> None:
        """Replace the model's gradients by their mean over all ranks."""
        if self.size == 1:
            return
        for parameter in model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in model.parameters()]
        means = self.average(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, mean in zip(gradients, means.split([x.numel() for x in gradients]), strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def average(self, values: Tensor) -> Tensor:
        """The mean of `values` (n,) over all ranks."""
        if self.size == 1:
            return values
        with peers():
            dist.all_reduce(values)
        return values / self.size

    def highest(self, value: int) -> int:
        """The highest of all ranks' values, the same on every rank. Sent through the hosts: no GPU waits for it."""
        if self.size == 1:
            return value
        answer = torch.tensor(value)
        with peers():
            dist.all_reduce(answer, dist.ReduceOp.MAX)
        return int(answer)

    def collect(self, share: list[Any]) -> list[Any] | None:
        """Rank 0 gets the list of which every rank holds every size-th item, in its order; the others get None."""
        if self.size == 1:
            return share
        lists = [None] * self.size if self.rank == 0 else None
        with peers():
            dist.gather_object(share, lists)
        if lists is None:
            return None
        return [lists[i % self.size][i // self.size] for i in range(sum(map(len, lists)))]

    def wait(self) -> None:
        """Until every rank is here."""
        self.highest(0)

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """Rank 0 does the block before the others: it claims the folder, decodes, and says what is wrong, once."""
        if self.rank:
            try:
                self.wait()
            except LostProcess:
                raise SystemExit(2) from None  # rank 0 has said why
        yield
        if not self.rank:
            self.wait()


@contextlib.contextmanager
def peers() -> Iterator[None]:
    """Sending to the other processes: a connection that ends is one line instead of a traceback."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # gloo's and NCCL's errors
        reason = str(error).splitlines()[0][:120]
        raise LostProcess(f"another process of this job ended ({reason}); the same command goes on") from None


def is_launched() -> bool:
    """Whether torchrun, or `launch`, has started this process as one of several."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size in ("", "0", "1"):
        return False
    missing = [name for name in TORCHRUN if not os.environ.get(name)]
    if missing:
        print(f"WORLD_SIZE={size} is set and {', '.join(missing)} is not: this process trains alone; --gpu N or "
              "torchrun starts several.", file=sys.stderr)
        os.environ["WORLD_SIZE"] = "1"  # said once
        return False
    numbers = [name for name in TORCHRUN if name != "MASTER_ADDR"]
    wrong = [f"{name}={os.environ[name]}" for name in numbers if not os.environ[name].isdecimal()]
    if wrong:
        raise InputError(f"{', '.join(wrong)}: expected whole numbers, as torchrun sets them")
    if int(os.environ["RANK"]) >= int(size) or not 0 < int(os.environ["MASTER_PORT"]) < 2**16:
        found = ", ".join(f"{name}={os.environ[name]}" for name in numbers)
        raise InputError(f"{found}: expected a rank below the size and a port below 65536, as torchrun sets them")
    return True


@contextlib.contextmanager
def join(device: str | None) -> Iterator[Ranks]:
    """This process's place among the others, from the variables that torchrun sets. Ranks above 0 print nothing."""
    if not is_launched():
        yield Ranks()
        return
    local, on_gpu = int(os.environ["LOCAL_RANK"]), device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        if local >= torch.cuda.device_count():
            raise InputError(f"process {local} of this machine finds {torch.cuda.device_count()} GPUs; start fewer")
        torch.cuda.set_device(local)
    elif "OMP_NUM_THREADS" not in os.environ:
        here = os.environ.get("LOCAL_WORLD_SIZE", "")
        here = int(here if here.isdecimal() else os.environ["WORLD_SIZE"])
        torch.set_num_threads(max(1, torch.get_num_threads() // max(1, here)))
    with peers():
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
    ranks, stdout = Ranks(dist.get_rank(), dist.get_world_size()), sys.stdout
    if ranks.rank:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        Progress.hidden = True
    try:
        yield ranks
        dist.destroy_process_group()
    finally:
        sys.stdout = stdout


def launch(main, processes: int, device: str | None) -> None:
    """Run `main()` in so many processes of this machine; they end together. Signals are handed on to them."""
    if device != "cpu" and torch.cuda.is_available() and torch.cuda.device_count() < processes:
        raise InputError(f"--gpu {processes}: torch finds {torch.cuda.device_count()} GPUs here")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.start_processes(
        _enter, (main, processes, port), nprocs=processes, join=False, start_method="spawn"
    )

    def hand_on(number: int, _frame: object) -> None:
        for process in context.processes:
            if process.is_alive() and OWN_SESSION:
                os.kill(process.pid, number)

    try:
        with heard(hand_on):
            while not context.join(timeout=1, grace_period=GRACE_SECONDS):
                pass
    except multiprocessing.ProcessExitedException as error:
        if error.exit_code < 0:
            which = f"process {error.error_index} of {processes} was ended by {error.signal_name}"
            raise LostProcess(f"{which}; the job is stopped, the same command goes on") from None
        raise SystemExit(error.exit_code) from None


def _enter(local: int, main, processes: int, port: int) -> None:
    """One process of `launch`, in a session of its own: Ctrl-C reaches it once, through its parent."""
    from modules.runtime import run_program

    if OWN_SESSION:
        os.setsid()
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(local), "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
    }
    run_program(main)
