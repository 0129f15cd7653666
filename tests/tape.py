"""CUDA graphs played on the CPU, for tests where there is no GPU: one operation after the other on the same tensors.

What is true of a graph is true here: recording changes nothing, a replay reads and writes the memory that was there at
recording, and whatever was a Python number then stays what it was. What would break a recording is an error.
"""

import contextlib

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
READS = {aten._local_scalar_dense, aten.equal, aten.nonzero, aten.masked_select}  # the host would wait for the device
FROM_HOST = {aten.lift_fresh, aten.lift_fresh_copy}  # a tensor made of Python numbers


def memory(value) -> set[int]:
    """The storages of all tensors in it."""
    return {x.untyped_storage()._cdata for x in tree_leaves(value) if isinstance(x, Tensor)}


class Tape(TorchDispatchMode):
    """Stands in for torch.cuda.CUDAGraph: notes every operation, and plays them again."""

    def __init__(self):
        super().__init__()
        self.calls, self.own, self.before = [], set(), {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operation.overloadpacket in READS | FROM_HOST or torch.Tag.nondeterministic_seeded in operation.tags:
            raise RuntimeError(f"{operation} cannot be recorded")
        changed = [
            value for value, argument in zip(args, operation._schema.arguments, strict=False)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        changed += [kwargs[a.name] for a in operation._schema.arguments if a.name in kwargs and a.is_out]
        for x in tree_leaves(changed):
            if isinstance(x, Tensor) and not memory(x) & (self.own | set(self.before)):
                storage = x.untyped_storage()
                self.before[storage._cdata] = storage, storage.clone()
        out = operation(*args, **kwargs)
        new = [x for x in tree_leaves(out) if isinstance(x, Tensor) and not memory(x) & memory((args, kwargs))]
        self.own |= memory(new)
        self.calls.append((operation, args, kwargs, out))
        return out

    def undo(self) -> None:
        """Give memory that is not the recording's own what it held before."""
        for storage, content in self.before.values():
            storage.copy_(content)

    @torch.no_grad()
    def replay(self) -> None:
        for operation, args, kwargs, out in self.calls:
            again = operation(*args, **kwargs)
            for static, value in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(static, Tensor) and not memory(static) & memory((args, kwargs)):
                    static.copy_(value)


@contextlib.contextmanager
def record(tape: Tape, stream=None):
    """Stands in for torch.cuda.graph."""
    try:
        with tape:
            yield
    finally:
        tape.undo()


class Stream:
    def wait_stream(self, other) -> None:
        pass


STAND_INS = {
    "CUDAGraph": Tape, "graph": record, "Stream": Stream, "current_stream": Stream,
    "stream": lambda stream: contextlib.nullcontext(),
}
