"""What both programs need from the machine: clear errors, a device, a precision and random streams.

Randomness is a pure function of (seed, stream, epoch, step): nothing has to be saved to repeat it.
"""

import contextlib
import ctypes
import os
import sys
from pathlib import Path
from typing import IO

import numpy as np
import torch

try:
    import fcntl
except ImportError:  # Windows: no locks
    fcntl = None

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # glibc's malloc.h
MESSAGE_LENGTH = 600  # characters of an error's line


class InputError(Exception):
    """Something the user gave is wrong. The message is one line: what, where, and what was expected."""


def run_program(main) -> None:
    """Call `main()`. What the user or the machine can mend is one line on stderr and exit code 2, without a traceback:
    an InputError, a file that cannot be read or written, too little memory. Ctrl-C gives exit code 130."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold anything
    keep_freed_memory()
    try:
        main()
    except InputError as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        fail(f"{error.filename or 'a file'}: {error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        fail("out of memory: lower --batch_size or --train_vi_len in training, else --frame_H and --frame_W")


def keep_freed_memory(keep: bool = True) -> None:
    """Have freed memory kept for the next tensors, or, if not `keep`, returned to the kernel as glibc does once its
    thresholds have risen to their highest.

    Returned, the memory of large tensors is mapped and cleared anew at every step, a tenth of a training step on a CPU.
    No effect where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_MAX, 0 if keep else 65536)
    mallopt(M_MMAP_THRESHOLD, 2**25)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1 if keep else 2**26)


def fail(message: str) -> None:
    """End the program with one line on stderr and exit code 2; of a message too long, its beginning and its end."""
    line = " ".join(message.split())
    if len(line) > MESSAGE_LENGTH:
        line = f"{line[: MESSAGE_LENGTH // 2]} … {line[-MESSAGE_LENGTH // 2 :]}"
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(2) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, CUDA or torch's CPU allocator has run out of memory."""
    kinds = (MemoryError, torch.cuda.OutOfMemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error) or "CUDA out of memory" in str(error)


def lock_file(path: Path, wait: bool = False) -> IO | None:
    """Create `path` and lock it until the file returned is closed or the process ends, however it ends.

    None if another process has it locked; with `wait`, wait for that one instead.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be written to ({error.strerror})") from None
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            return file
    except BlockingIOError:
        pass
    except OSError as error:
        raise InputError(f"{path}: cannot be locked ({error.strerror}); choose a folder on a local disk") from None
    file.close()  # locked by another process, or moved away since it was opened
    return lock_file(path, wait) if wait else None


def derive_seed(*parts: int) -> int:
    """One 63-bit seed from several whole numbers, e.g. (seed, stream, epoch, step)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def random_generator(device: torch.device | str, *parts: int) -> torch.Generator:
    """A generator on `device` whose stream is a function of `parts` alone."""
    return torch.Generator(device).manual_seed(derive_seed(*parts))


def pick_device(name: str | None) -> torch.device:
    """`cuda` or `cpu` as asked for; by default CUDA if there is one, else the CPU with one line that says so."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no CUDA GPU here; use --device cpu or leave the flag out")
    if name is None and not torch.cuda.is_available():
        print("No CUDA GPU found: running on the CPU.")
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def cpu_has_bfloat16() -> bool:
    """True where the CPU computes bfloat16 natively (AVX512-BF16 or AMX): there it is faster than float32."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = file.read()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """Resolve `--precision {auto,fp32,bf16}` to the dtype of convolutions. Losses, KL and frames stay float32."""
    if name == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else cpu_has_bfloat16()
        name = "bf16" if fast else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[name]


def autocast(device: torch.device, dtype: torch.dtype):
    """The autocast context for `dtype`; no context for float32."""
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def keep_on(device: torch.device, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """The tensors on the device if together they take less than half of its free memory, else where they are."""
    if device.type == "cuda":
        size, free = sum(x.nbytes for x in tensors), torch.cuda.mem_get_info(device)[0]
        if size > free / 2:
            print(f"{size / 1e9:.1f} GB of pictures stay in main memory: {free / 1e9:.1f} GB are free on the GPU.")
            return list(tensors)
    return [x.to(device) for x in tensors]


def to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on the device, from main memory without waiting for it: the next batch travels while it computes."""
    return x if x.device.type == device.type else x.pin_memory().to(device, non_blocking=True)
