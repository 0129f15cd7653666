"""What every program starts with: errors of one line, exit codes, signals, memory. Imports nothing slow, so --help need
not wait."""

import contextlib
import ctypes
import importlib
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C, a scheduler, a closed terminal (not on Windows)
# in the messages of torch's allocators, of cuBLAS and cuDNN, and of the system, in small letters
OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "status_alloc_failed")
PACKAGES = ("torch", "numpy", "PIL", "tqdm", "matplotlib", "filelock")  # without imageio there are no MP4 files
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
    keep_freed_memory()
    try:
        with redirect_stdout(Output(sys.stdout)), redirect_stderr(Output(sys.stderr)), on_signal(end):
            return main(*arguments)
    except InputError as error:
        message = str(error)
    except (MemoryError, OSError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(words in str(error).lower() for words in OUT_OF_MEMORY):
            message = "out of memory: lower --batch_size or --train_vi_len in training, else --frame_H and --frame_W"
        elif isinstance(error, OSError):
            message = f"{error.filename or 'a file'}: {error.strerror or error}"
        else:
            raise
    print("error:", *message.split(), file=sys.stderr)
    raise SystemExit(2)


def start(parse: Callable, program: str) -> Any:
    """The flags of a program, whose slow imports are done here, within run_program: Ctrl-C is no traceback."""
    flags, missing = parse(), [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{sys.executable} has no {', '.join(missing)}: pip install -r requirements.txt")
    importlib.import_module(program)
    return flags


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
