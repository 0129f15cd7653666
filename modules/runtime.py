"""What every program starts with: errors of one line, exit codes, memory. It imports nothing slow, so --help need not
wait."""

import contextlib
import ctypes
import getpass
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # glibc's malloc.h
# what terminals (Ctrl-C, a closed window, Ctrl-Backslash, Ctrl-Break on Windows), schedulers and clocks send to end a
# job, where the system has it
ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGBREAK", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGALRM", "SIGPWR")
OUT_OF_MEMORY = ("can't allocate memory", "CUDA out of memory")  # what torch's allocators say
MESSAGE_LENGTH = 600  # characters of an error's line


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


def run_program(main, *arguments):
    """Call and return `main(*arguments)`. What the user or the machine can mend is one line on stderr and exit code 2,
    without a traceback: an InputError, a file that cannot be read or written, too little memory. Ctrl-C gives exit code
    130, another signal 128 + its number. Output that nobody reads any more ends nothing."""
    fill_closed()
    name_user()
    if not isinstance(sys.stdout, Output):
        sys.stdout, sys.stderr = Output(sys.stdout), Output(sys.stderr)
    keep_freed_memory()
    try:
        with heard(end):
            return main(*arguments)
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


def leave() -> None:
    """End the program now that all is written: to take torch's memory apart would take a second."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@contextlib.contextmanager
def heard(handler: Callable) -> Iterator[None]:
    """Within the block every signal that ends a job calls `handler`. What is ignored (SIGHUP under nohup) stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers belong to the main thread
        return
    known = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    before = {n: signal.signal(n, handler) for n in known if signal.getsignal(n) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)  # None: set by a library


def end(number: int, _frame: object) -> None:
    """A signal where there is no run to save: an exception, so that what is half done is put away."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def fill_closed() -> None:
    """Open nothing in the place of stdin, stdout and stderr that are closed: else the next file would be written to by
    whoever writes there."""
    for place in range(3):
        try:
            os.fstat(place)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != place:
                os.dup2(nowhere, place)
                os.close(nowhere)


def name_user() -> None:
    """Torch asks who the user is when it makes an optimizer; in a container there may be no name for one."""
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["USER"] = "nobody"


class Output:
    """stdout or stderr that may go away (`| head`, a closed terminal): from then on what is written is dropped."""

    def __init__(self, stream):
        if stream is None:  # closed before the start
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        self.stream = stream
        with contextlib.suppress(AttributeError, ValueError):  # not text on a file; closed
            stream.reconfigure(errors="backslashreplace")  # file names may hold anything

    def __getattr__(self, name: str):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self._try(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def isatty(self) -> bool:
        try:
            return self.stream.isatty()
        except ValueError:  # closed
            return False

    def _try(self, call, *arguments) -> None:
        try:
            call(*arguments)
        except BlockingIOError:  # a reader too slow for a pipe that does not wait
            pass
        except (OSError, ValueError):  # a broken pipe, a terminal that has hung up, a closed file
            with contextlib.suppress(OSError, ValueError, AttributeError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stream.fileno())  # what is buffered goes there at exit
                os.close(nowhere)


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
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)
