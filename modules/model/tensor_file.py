"""Read a file of tensors and plain values without running anything that is in it.

Four containers: torch's zip archive, its older stream of pickles, a plain pickle, safetensors. A pickle names functions
and asks for calls of them. Here a name stays a `Name`, which cannot be called: the few functions of `CALLS` make what a
checkpoint needs (tensors, OrderedDicts, numpy's numbers, paths), and any other object becomes a `Record` of what it
held. Memory is taken for bytes that the file has, never for sizes that it claims.
"""

import contextlib
import io
import json
import pickle
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules.runtime import InputError

UNREADABLE = "not a readable checkpoint; expected a file written by torch.save"
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # how the older stream begins
STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128, "Untyped": torch.uint8,
}
SAFETENSORS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}


class Name:
    """A function or class that a pickle names, e.g. "os.system". It is never looked up, and cannot be called."""

    def __init__(self, path: str):
        self.path = path


class Record(dict):
    """Stands for an object that is not made: what it held, by name; made_by and args: its class or function."""

    __hash__ = object.__hash__  # the object may have been a key

    def __init__(self, made_by: str, args: tuple = ()):
        super().__init__()
        self.made_by, self.args = made_by, args

    def fill(self, state: Any) -> None:
        """What unpickling would hand to the object: its attributes, alone or with its slots, or anything else."""
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        if all(part is None or isinstance(part, dict) for part in parts):
            for part in parts:
                self.update(part or {})
        else:
            self["state"] = state


class Refused(Exception):
    """The file asks for a call of a function, which could run code."""


def read_tensor_file(path: Path) -> Any:
    """The nested dicts, lists, tensors and plain values of a file; InputError where it is not one to read."""
    with open(path, "rb") as file:
        start = file.read(16)
    try:
        if start.startswith(b"PK"):
            return read_archive(path)
        if start[:1] == b"\x80":
            return read_stream(io.BytesIO(path.read_bytes()))
        if start[8:9] == b"{":
            return read_safetensors(path.read_bytes())
    except (InputError, MemoryError):
        raise
    except Refused as error:
        raise InputError(
            f"{path}: holds pickled Python objects, which could run code when loaded ({error!s:.80}); expected tensors "
            "and plain values only. If you trust it, save it again with torch.save({'state_dict': …}, path)"
        ) from None
    except Exception:  # damaged bytes make an unpickler raise whatever they happen to mean
        raise InputError(f"{path}: {UNREADABLE}; it is damaged or incomplete") from None
    raise InputError(f"{path}: {UNREADABLE}, " + (f"found one that begins with {start!r}" if start else "it is empty"))


def read_archive(path: Path) -> Any:
    """torch's zip archive: a pickle, and a stored entry of bytes for every storage."""
    try:
        archive = zipfile.ZipFile(path)
    except Exception:  # see above
        raise InputError(f"{path}: {UNREADABLE}; its zip archive is damaged or incomplete") from None
    with archive:
        entries = archive.infolist()
        claimed = sum(entry.file_size for entry in entries)
        if claimed > path.stat().st_size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise InputError(f"{path}: its archive is compressed, or claims {claimed:,} bytes; torch.save does not")
        names = set(archive.namelist())
        folder = next((name.removesuffix("data.pkl") for name in names if name.count("/") == 1
                       and name.endswith("/data.pkl")), None)
        if folder is None or folder + "constants.pkl" in names:
            found = "a TorchScript program" if folder else f"a zip archive of {', '.join(sorted(names)[:3])!s:.80}"
            raise InputError(f"{path}: {UNREADABLE}, found {found}")
        try:  # the checksums are compared, else a changed bit in a weight would only show in the frames
            if folder + "byteorder" in names and archive.read(folder + "byteorder") != b"little":
                raise InputError(f"{path}: was written by a big-endian machine; expected little-endian")
            memory: dict[str, Tensor] = {}

            def storage(kind: torch.dtype, key: str, count: int) -> Tensor:
                if key not in memory:
                    memory[key] = from_bytes(archive.read(f"{folder}data/{key}"))
                return memory[key].view(kind)

            return Reader(io.BytesIO(archive.read(folder + "data.pkl")), storage).load()
        except zipfile.BadZipFile:
            raise InputError(
                f"{path}: is damaged, its checksums are wrong; expected the file as torch.save wrote it"
            ) from None


def read_stream(file: io.BytesIO) -> Any:
    """torch's older stream: magic number, version, system, the object, the keys of its storages, their bytes. Anything
    else that is pickled is that object."""
    first = Reader(file).load()
    if type(first) is not int or first != MAGIC:
        return first
    version, system = Reader(file).load(), Reader(file).load()
    if type(version) is not int or version != PROTOCOL or system["little_endian"] is not True:
        raise ValueError
    start, kinds, memory = file.tell(), {}, {}

    def without_memory(kind: torch.dtype, key: str, count: int) -> Tensor:
        kinds[key] = kind
        return torch.empty(count, dtype=kind, device="meta")

    Reader(file, without_memory).load()
    for key in Reader(file).load():
        size = int.from_bytes(file.read(8), "little") * kinds[key].itemsize
        data = file.read(size)
        if len(data) != size:
            raise EOFError
        memory[key] = from_bytes(data)
    file.seek(start)
    return Reader(file, lambda kind, key, count: memory[key].view(kind)).load()


def read_safetensors(data: bytes) -> dict[str, Tensor]:
    """safetensors: the length of a JSON header, the header, and the tensors' bytes."""
    start = 8 + int.from_bytes(data[:8], "little")
    memory, tensors = from_bytes(data[start:]), {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            low, high = entry["data_offsets"]
            tensors[name] = memory[low:high].view(SAFETENSORS[entry["dtype"]]).view(entry["shape"])
    return tensors


def from_bytes(data: bytes) -> Tensor:
    """The same bytes as uint8 (n,), in memory of torch's own."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).clone() if data else torch.empty(0, dtype=torch.uint8)


def rebuild_tensor(storage: Tensor | None, offset: int, size: tuple, stride: tuple, *_: Any) -> Any:
    return Record("tensor") if storage is None else storage.as_strided(size, stride, offset)


def number_type(described: Record) -> np.dtype:
    """numpy's dtype from the record of one; ValueError for what is not a plain number."""
    code, order = described.args[0], (described.get("state") or (0, "<"))[1]
    if code[0] not in "biuf":
        raise ValueError
    return np.dtype(code).newbyteorder(order if order in "<>" else "=")


def numpy_number(described: Record, data: Any) -> Any:
    with contextlib.suppress(Exception):  # a string, a date, an object
        return np.frombuffer(data, number_type(described))[0].item()
    return Record("numpy number")


def as_tensor(value: Any) -> Tensor | None:
    """A tensor, or that of the record of a numpy array of numbers; None for anything else."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Record) and value.made_by == "numpy.array" and len(value.get("state", ())) == 5:
        _, shape, described, by_column, data = value["state"]
        with contextlib.suppress(Exception):  # objects, strings, and what torch has no type for
            array = np.frombuffer(data, number_type(described)).reshape(shape, order="F" if by_column else "C")
            return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    return None


def copied(kind: type) -> Callable:
    """A call of list, dict, …: of what is plain only, since a tensor may claim any number of values."""

    def copy(items: Any = ()) -> Any:
        if not isinstance(items, (list, tuple, dict, set)):
            raise TypeError
        return kind(items)

    return copy


CALLS: dict[str, Callable] = {
    "torch._utils._rebuild_tensor": rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": lambda function, kind, args, state: call(function, args),
    "torch.storage._load_from_bytes": lambda data: read_stream(io.BytesIO(data)),
    "torch.Size": copied(tuple),
    "collections.OrderedDict": copied(dict),
    "collections.defaultdict": lambda *_: {},
    "collections.Counter": copied(dict),
    "builtins.set": copied(set),
    "builtins.frozenset": copied(frozenset),
    "builtins.complex": complex,
    "_codecs.encode": lambda text, encoding="utf-8": text.encode("latin1" if encoding == "latin1" else "utf-8"),
    "numpy.dtype": lambda *args: Record("numpy.dtype", args),
    "numpy.core.multiarray.scalar": numpy_number,
    "numpy.core.multiarray._reconstruct": lambda *_: Record("numpy.array"),
}
PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
# of Python's own library, what people keep beside weights: a record of it is enough
HARMLESS = ("datetime.", "collections.", "types.SimpleNamespace", "functools.partial", "builtins.getattr",
            "copyreg._reconstructor")


def call(name: Any, args: tuple) -> Any:
    """What a call of a name gives here. None is made that could do harm; those of Python's own library, with which
    attacks are made, are refused, so that their file is not taken for a good one."""
    path = name.path.replace("numpy._core.", "numpy.core.") if isinstance(name, Name) else "builtins.call"
    if path in CALLS:
        return CALLS[path](*args)
    if path.startswith("pathlib") and path.endswith(PATHS):
        return str(PurePosixPath(*args))
    if path.partition(".")[0] in sys.stdlib_module_names and not path.startswith(HARMLESS):
        raise Refused(path)
    return Record(path, args)


class Reader(pickle._Unpickler):
    """Python's own unpickler in Python, of which nothing is left that looks up, calls or changes an object."""

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: io.BytesIO, storage: Callable[[torch.dtype, str, int], Tensor] | None = None):
        super().__init__(file, encoding="latin1")
        self.storage = storage  # gives a flat tensor for a dtype, a key and a number of values

    def find_class(self, module: str, name: str) -> Name:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))  # of Python 2
        return Name(f"{module}.{name}")

    def get_extension(self, code: int) -> None:
        raise Refused("a registered extension")

    def persistent_load(self, pid: tuple) -> Any:
        if pid[0] == "module":  # the class of a module, with its source in the older container
            return pid[1]
        _, kind, key, _, count = pid[:5]
        dtype = STORAGES.get(kind.path.rpartition(".")[2].removesuffix("Storage"))
        return None if dtype is None else self.storage(dtype, key, count)

    def _instantiate(self, name: Name, args: list) -> None:
        self.append(Record(name.path, tuple(args)))

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = call(self.stack[-1], args)

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = Record(self.stack[-1].path, args)

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_newobj()

    def load_build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Record):
            self.stack[-1].fill(state)

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._target(dict).update(zip(items[::2], items[1::2], strict=True))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._target(dict)[key] = value

    def load_appends(self) -> None:
        self._append(self.pop_mark())

    def load_append(self) -> None:
        self._append([self.stack.pop()])

    def load_additems(self) -> None:
        items = self.pop_mark()
        self._target(set).update(items)

    def _append(self, items: list) -> None:
        target = self._target((list, Record))
        target.update(enumerate(items, start=len(target))) if isinstance(target, Record) else target.extend(items)

    def _target(self, kinds: Any) -> Any:
        if not isinstance(self.stack[-1], kinds):
            raise TypeError
        return self.stack[-1]

    for opcode, load in (
        (pickle.REDUCE, load_reduce), (pickle.NEWOBJ, load_newobj), (pickle.NEWOBJ_EX, load_newobj_ex),
        (pickle.BUILD, load_build), (pickle.SETITEMS, load_setitems), (pickle.SETITEM, load_setitem),
        (pickle.APPENDS, load_appends), (pickle.APPEND, load_append), (pickle.ADDITEMS, load_additems),
    ):
        dispatch[opcode[0]] = load
    del opcode, load
