"""Read a file of torch.save without running anything that is in it.

torch's own safe reader does the work. It stops at the name of every class and function that it does not know; here such
a name gets a stand-in, which only keeps what it is given, so what lies beside the weights does not stand in their way.
"""

import contextlib
import pickle
import re
import sys
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from modules.runtime import InputError

UNREADABLE = "not a readable checkpoint; expected a file written by torch.save"
MAX_TRIES = 200  # one for each name of the older container
# Calls of Python's own library are refused, since attacks are made of them, but for what people keep beside weights.
LIBRARY = sys.stdlib_module_names | IMPORT_MAPPING.keys()  # these: its names in Python 2
HARMLESS = ("datetime.", "collections.", "types.SimpleNamespace", "functools.partial", "builtins.getattr",
            "builtins.frozenset")


class StandIn(dict):
    """Stands for an object that is not made: its attributes. made_by: its class or function, called with args."""

    made_by, args, state = "", (), ()
    __hash__ = object.__hash__  # the object may have been a key

    def __init__(self, *args: Any):  # of a call only: an object made of its attributes has __setstate__
        self.args = args
        if self.made_by.partition(".")[0] in LIBRARY and not self.made_by.startswith(HARMLESS):
            raise PermissionError(self.made_by)

    def __setstate__(self, state: Any) -> None:
        self.state = state
        for part in state if isinstance(state, tuple) else (state,):  # with slots: two dicts
            self.update(part if isinstance(part, dict) else {})


def read_tensor_file(path: Path) -> Any:
    """The nested dicts, lists, tensors and plain values of a file; InputError where it is not one to read."""
    with open(path, "rb") as file:
        start = file.read(16)
        if not start.startswith((b"PK", b"\x80")):
            found = f"found one that begins with {start!r}" if start else "it is empty"
            raise InputError(f"{path}: {UNREADABLE}, {found}")
        try:
            if start.startswith(b"PK"):
                check_archive(file, path)
            return load(file, zipped=start.startswith(b"PK"))
        except InputError:
            raise
        except PermissionError as error:
            raise InputError(
                f"{path}: holds pickled Python objects, which could run code when loaded ({error!s:.80}); expected "
                "tensors and plain values only. If you trust it, save it again with torch.save({'state_dict': …}, path)"
            ) from None
        except Exception:  # damaged bytes make an unpickler raise whatever they happen to mean
            raise InputError(f"{path}: {UNREADABLE}; it is damaged or incomplete, or pickled otherwise") from None


def check_archive(file: BinaryIO, path: Path) -> None:
    """An error unless it is torch's zip archive, whole, and takes no more memory than its size."""
    with zipfile.ZipFile(file) as archive:
        entries, names = archive.infolist(), sorted(archive.namelist())
        claimed = sum(entry.file_size for entry in entries)
        if claimed > path.stat().st_size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise InputError(f"{path}: its archive is compressed, or claims {claimed:,} bytes; torch.save does not")
        if not any(name.partition("/")[2] == "data.pkl" for name in names):
            raise InputError(f"{path}: {UNREADABLE}, found a zip archive of {', '.join(names[:3])!s:.80}")
        if archive.testzip():  # else a changed bit in a weight would only show in the frames
            raise InputError(f"{path}: is damaged, its checksums are wrong; expected the file as torch.save wrote it")


def load(file: BinaryIO, zipped: bool) -> Any:
    """torch.load, with a stand-in for every name at which it stops. (By its path it would look at the ending, too.)

    torch keeps the sparse tensors of a load that failed, and would judge the next one by them.
    """
    file.seek(0)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(file) if zipped else []
    known = {name: stand_in(name) for name in names}
    for _ in range(MAX_TRIES):
        file.seek(0)
        getattr(torch._utils, "_sparse_tensors_to_validate", []).clear()  # of a try that was ended, see above
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals([(k, name) for name, k in known.items()]):
                warnings.simplefilter("ignore")
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            why = str(error)
        if found := re.search(r"GLOBAL (\S+) was not an allowed global", why):
            name = found[1] if "." in found[1] else f"builtins.{found[1]}"
            known[name] = stand_in(name)
        elif found := re.search(rf"Can only SETITEMS? for .* got <class '{__name__}\.(.+)'>", why):
            known[found[1]] = OrderedDict  # torch fills dicts of its own kinds only
        elif found := re.search(r"GLOBAL (\S+) whose module|reduce for (unrecognized function)", why):
            raise PermissionError(found[1] or found[2])
        else:
            raise ValueError(why)
    raise PermissionError(f"more than {MAX_TRIES} of them")


def stand_in(name: str) -> Callable:
    """What torch shall take for a class or function, which is never looked up."""
    if name.startswith("pathlib.") and name.endswith("Path"):
        return lambda *parts: str(PurePosixPath(*parts))
    name = name.replace("numpy._core.", "numpy.core.")
    calls = {"collections.defaultdict": lambda *_: {}, "collections.deque": lambda *_: [],
             "numpy.core.multiarray.scalar": lambda *args: next(iter(numbers(*args).tolist()), None)}
    return calls.get(name) or type(name, (StandIn,), {"made_by": name})


def numbers(described: StandIn, data: Any) -> np.ndarray:
    """numpy's plain numbers (n,), from the stand-in of their dtype; nothing of strings, dates and objects."""
    code, order = described.args[0], described.state[1]
    return np.frombuffer(data, code) if code[0] in "biuf" and order != ">" else np.empty(0)


def as_tensor(value: Any) -> Tensor | None:
    """A tensor, or that of the stand-in of a numpy array of numbers; None for anything else."""
    if isinstance(value, StandIn) and value.made_by == "numpy.core.multiarray._reconstruct":
        with contextlib.suppress(Exception):  # objects, and what torch has no type for
            _, shape, described, by_column, data = value.state
            return torch.tensor(numbers(described, data).reshape(shape, order="F" if by_column else "C"))
    return value if isinstance(value, Tensor) else None
