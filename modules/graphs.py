"""Speed on a GPU, on request (--cuda_graphs): small kernels recorded once and replayed as a CUDA graph.

Predicting a frame of 32x64 takes about a hundred kernels of a few microseconds each, less than launching them from
Python takes. A graph launches all of them at once. On the CPU everything here is the plain function.
"""

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

WARM_UP = 3  # plain calls before recording: they choose kernels and create the optimizers' state


class Recording(NamedTuple):
    """A recorded call: its graph and the tensors that it reads and writes at every replay."""

    graph: torch.cuda.CUDAGraph
    inputs: list
    outputs: Any


class Graphed:
    """`function(*inputs, **named)`, replayed as a CUDA graph from its fourth call on; the plain function elsewhere.

    inputs, named: tensors on one device and hashable values, or lists and tuples of them. Every combination of values
    and of shapes has a graph of its own, which reads the tensors of each call.
    The function must not read a number back from the device. What it changes in place, weights say, it changes at every
    call. If recording fails, one line says so and every call is plain from then on.
    """

    def __init__(self, function: Callable, enabled: bool):
        self.function, self.enabled = function, enabled
        self.calls: Counter = Counter()
        self.recordings: dict[Any, Recording] = {}
        self.stream = torch.cuda.Stream() if enabled else None

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if not self.enabled:
            return self.function(*inputs, **named)
        flat, structure = tree_flatten((inputs, named))
        key = (str(structure), *((x.shape, x.dtype) if isinstance(x, Tensor) else x for x in flat))
        if key not in self.recordings:
            self.calls[key] += 1
            if self.calls[key] <= WARM_UP:
                return self._beside(inputs, named)
            try:
                self.recordings[key] = self._record(flat, structure)
            except RuntimeError as error:
                self.enabled = False
                print(f"No CUDA graph: {' '.join(str(error).split())[:200]}; going on without.", file=sys.stderr)
                return self.function(*inputs, **named)
        recording = self.recordings[key]
        for static, given in zip(recording.inputs, flat, strict=True):
            if isinstance(static, Tensor):
                static.copy_(given)
        recording.graph.replay()
        return tree_map_only(Tensor, torch.clone, recording.outputs)  # the next replay writes over its outputs

    def _beside(self, inputs: tuple, named: dict) -> Any:
        """A plain call on the stream beside the current one, as recording needs it first."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            out = self.function(*inputs, **named)
        torch.cuda.current_stream().wait_stream(self.stream)
        return out

    def _record(self, flat: list, structure: Any) -> Recording:
        """Record one call. Nothing is computed yet."""
        static = [x.clone() if isinstance(x, Tensor) else x for x in flat]
        inputs, named = tree_unflatten(static, structure)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            outputs = self.function(*inputs, **named)
        return Recording(graph, static, outputs)
