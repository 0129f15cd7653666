"""What every program starts with: errors of one line, exit codes, signals, memory. Imports nothing slow, so --help need
not wait."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C, a scheduler, a closed terminal (not on Windows)
OUT_OF_MEMORY = ("can't allocate memory", "CUDA out of memory")  # in the messages of torch's allocators
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # glibc's malloc.h


class InputError(Exception):
    """Something the user gave is wrong. The message is one line: what, where, and what was expected."""


def collect_errors(*calls: Callable[[], Any]) -> list[Any]:
    """The results of all calls; one InputError that holds the errors of all of them."""
    results, errors = [], []
    for call in calls:
        try:
            results.append(call())
        except InputError as error:
            errors.append(str(error))
    if errors:
        raise InputError("; and ".join(errors))
    return results


def run_program(main: Callable, *arguments: Any) -> Any:
    """Call and return `main(*arguments)`. What the user or the machine can mend is one line on stderr and exit code 2:
    an InputError, a file that cannot be read or written, too little memory. Signals end with 128 + their number."""
    if not isinstance(sys.stdout, Output):
        sys.stdout, sys.stderr = Output(sys.stdout), Output(sys.stderr)
    keep_freed_memory()
    try:
        with on_signal(end):
            return main(*arguments)
    except InputError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename or 'a file'}: {error.strerror or error}"
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        message = "out of memory: lower --batch_size or --train_vi_len in training, else --frame_H and --frame_W"
    print("error:", *message.split(), file=sys.stderr)
    raise SystemExit(2)


def end(number: int, _frame: object) -> None:
    """Handle a signal by ending the program with a shell's exit code for it."""
    raise SystemExit(128 + number)


@contextlib.contextmanager
def on_signal(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Within the block SIGNALS call `handler`. An ignored signal (SIGHUP under nohup) stays ignored."""
    if threading.current_thread() is not threading.main_thread():  # Python has handlers in the main thread only
        yield
        return
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    before = {n: signal.signal(n, handler) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)  # None: set by a library


class Output:
    """stdout or stderr, flushed at every write. When its reader is gone (`| head`), the rest is discarded."""

    def __init__(self, stream: Any):
        self.stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names may hold anything

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        return len(text)


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next tensors; other C libraries: no effect. Returned to the kernel, it is
    mapped and cleared anew at every step, a tenth of a training step on a CPU."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((M_MMAP_MAX, 0), (M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, 2**31 - 1)):
            mallopt(parameter, value)
