"""Files: written whole or not at all, and locks that one process at a time holds."""

import contextlib
import csv
import errno
import io
import json
import math
import os
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from modules.runtime import InputError

# seconds to wait for a file that a virus scanner or a backup reads: Windows replaces no open file
RETRY_SECONDS = (0.1, 0.3, 1, 3) if os.name == "nt" else ()


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file beside `path`, sync it, then move it there. InputError if that fails: the old file is unchanged."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            try:
                os.fsync(file.fileno())
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # else the drive cannot sync
                    raise
        move(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be written ({reason}); the previous file is unchanged") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def move(source: Path, path: Path) -> None:
    """Move a file to the place of another, if need be at the last try."""
    for seconds in RETRY_SECONDS:
        with contextlib.suppress(PermissionError):
            return os.replace(source, path)
        time.sleep(seconds)
    return os.replace(source, path)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, as write_bytes does."""
    write_bytes(path, text.encode())


def check_writable(folder: Path) -> None:
    """Make a folder; InputError if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror}); choose another folder") from None


def to_csv(rows: list[list]) -> str:
    """A header and rows as CSV; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def to_markdown(rows: list[list[str]]) -> str:
    """A Markdown table of a header and rows."""
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body]) + "\n"


def write_json(path: Path, contents: Any) -> None:
    """Write JSON. Numbers that are not finite become null, which every reader of JSON understands."""
    write_text(path, json.dumps(finite(contents), indent=1, allow_nan=False))


def read_json(path: Path) -> Any:
    """A JSON file; InputError where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None


def finite(value: Any) -> Any:
    """The same nested lists and dicts with None in place of nan and infinities."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def lock_file(path: Path, wait: bool = False) -> contextlib.AbstractContextManager | None:
    """Create `path` and lock it until the returned context ends, or the process does. None if another process holds the
    lock; with `wait`, wait for it instead. On a drive without locks (some network drives) nobody is held off."""
    check_writable(path.parent)
    try:
        # not a soft lock: that is a file, which stays when its machine dies
        return FileLock(path, fallback_to_soft=False).acquire(timeout=-1 if wait else 0)
    except Timeout:
        return None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or "not supported"
        print(f"warning: {path.parent}: no locks on this drive ({reason}); start no second run there", file=sys.stderr)
        return contextlib.nullcontext()
