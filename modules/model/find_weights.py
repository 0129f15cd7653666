"""Find the model's weights in a file: whatever dicts and modules they lie in, whatever wrappers stand in their names.

The names of the model's boxes are what is searched for: what stands before them, keys of outer dicts or prefixes, is
taken off, and so are the names that DataParallel, torch.compile and the like put in between.
"""

import collections
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from modules.model.tensor_file import as_tensor
from modules.runtime import InputError

BOXES = ("frame_transformation", "label_transformation", "Gaussian_Predictor", "Decoder_Fusion", "Generator", "prior")
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
OTHERS = ("optimizer", "training")  # keys whose tensors are not weights to predict with
FALLBACKS = ("ema", "averag", "teacher", "target")  # of two sets of weights, the one that is named so is left out
DEPTH = 16  # of nested dicts that are searched for weights


def find_weights(contents: Any, path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file that are named like the model's, under the model's names, and in words where they were
    and what was taken off, or "" for a plain `state_dict`.

    Tensors are collected by all that stands before the name of a box, keys of outer dicts and prefixes of wrappers
    alike; of these collections the largest one is taken.
    """
    found: dict[tuple, dict[str, Tensor]] = {}  # what stood before the boxes -> weights
    notes: dict[tuple, dict[str, None]] = {}  # … -> what was done to the names, in order
    others: dict[tuple, list[str]] = {}  # keys of outer dicts -> names without a box
    homes: dict[tuple, set[tuple]] = {}  # what stood before the boxes -> keys of the outer dicts
    for outer, name, tensor in tensors_in(contents):
        parts = [*outer, *name.split(".")]
        box = max((i for i, part in enumerate(parts) if part in BOXES), default=None)
        if box is None:
            others.setdefault(outer, []).append(name)
            continue
        group = tuple(part for part in parts[:box] if part not in WRAPPERS)
        own = ".".join(part for part in parts[box:] if part not in WRAPPERS)
        found.setdefault(group, {}).setdefault(own, tensor)
        homes.setdefault(group, set()).add(outer)
        done = notes.setdefault(group, {})
        if outer[:box] != ("state_dict",):
            done[f"under '{shown('.'.join(outer[:box]))}'" if outer[:box] else "without an outer key"] = None
        if parts[len(outer) : box]:
            done[f"prefix '{shown('.'.join(parts[len(outer) : box]))}.' removed"] = None
        for wrapper in dict.fromkeys(part for part in parts[box:] if part in WRAPPERS):
            done[f"'{wrapper}.' removed within the names"] = None
    if not found:
        names = [name for names in others.values() for name in names]
        names = listed(names or contents if isinstance(contents, dict) else names or [type(contents).__name__])
        raise InputError(
            f"{path}: holds no weights of this model; expected names such as {BOXES[0]}.0.…, in a dict under "
            f"'state_dict' or the like; found {names}"
        )

    def preference(group: tuple) -> tuple:
        averaged = any(word in part.lower() for part in group for word in FALLBACKS)
        return len(found[group]), group[:1] == ("state_dict",), not averaged

    best = max(found, key=preference)  # the first of equals
    equals = [".".join(group) for group in found if group != best and len(found[group]) == len(found[best])]
    done = [*notes[best], *([f"not those under {listed(equals)}"] if equals else [])]
    beside = [name for home in sorted(homes[best]) for name in others.get(home, ())]
    if beside:
        warn(f"{path}: {len(beside)} tensors are not the model's and left out: {listed(beside)}")
    return found[best], f"{len(found[best])} weights found {', '.join(done[:5])}" if done else ""


def tensors_in(contents: Any) -> Iterator[tuple[tuple[str, ...], str, Tensor]]:
    """Every tensor of nested dicts, lists and pickled modules: the keys of the outer dicts, its own name, itself."""
    waiting, seen = collections.deque([((), contents)]), set()
    while waiting:
        outer, value = waiting.popleft()
        if id(value) in seen or len(outer) > DEPTH:
            continue
        seen.add(id(value))
        parts = [value]
        if isinstance(value, dict) and "_parameters" in value and "_modules" in value:  # of a torch.nn.Module
            parts = [value["_parameters"], value.get("_buffers"), value["_modules"]]
        for part in parts:
            part = dict(enumerate(part)) if isinstance(part, (list, tuple)) else part
            for key, item in part.items() if isinstance(part, dict) else ():
                name = key if isinstance(key, str) else f"[{key}]" if type(key) is int else type(key).__name__
                if (tensor := as_tensor(item)) is not None:
                    yield outer, name, tensor
                elif isinstance(item, (dict, list, tuple)) and name not in OTHERS:
                    waiting.append(((*outer, name), item))


def warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)


def listed(names: Any) -> str:
    """The first few of some names, and how many there are: "a, b, c … (26)"."""
    names = list(names)
    few = ", ".join(shown(name) for name in names[:3])
    return f"{few} … ({len(names)})" if len(names) > 3 else few or "none"


def shown(name: Any) -> str:
    """A name from a file as it is printed: short, without control characters."""
    name = name if isinstance(name, str) else type(name).__name__
    return "".join(c if c.isprintable() else "?" for c in name[:60])
