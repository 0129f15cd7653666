"""What the scripts that write a data set share. It is written whole or not at all: into a folder beside OUT, whose
entries are then moved there."""

import argparse
import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from modules.runtime import InputError


def script_parser(about: str, out: str = "folder for train, val and test; new or empty") -> argparse.ArgumentParser:
    """A parser with --out, whose errors are one line. about: the script's docstring."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.error = lambda message: parser.exit(2, f"error: {message}\n")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help=out)
    return parser


def check_out(out: Path) -> None:
    """InputError if OUT is not a new or an empty folder."""
    try:
        empty = not out.exists() or not any(out.iterdir())
    except OSError as error:
        raise InputError(f"{out}: not a folder that can be written to ({error.strerror})") from None
    if not empty:
        raise InputError(f"{out} is not empty; expected a new or an empty folder")


@contextlib.contextmanager
def new_dataset(out: Path, program: str, settings: dict) -> Iterator[Path]:
    """An empty folder to write into. When the block ends without an error, the first true frames of test sequences are
    copied to where the given ones lie, and all is moved to OUT, beside a file made_by_<program>.json that holds the
    settings; after an error nothing has changed."""
    check_out(out)
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{program}_", dir=out.parent) as temporary:
        new = Path(temporary, "new")
        new.mkdir()
        yield new
        for truth in (new / "test/test_gt").glob("*/frame000000.png"):
            given = new / "test/test_img" / truth.parent.name
            given.mkdir(parents=True)
            shutil.copyfile(truth, given / truth.name)
        text = json.dumps(settings, indent=1, default=str) + "\n"
        (new / f"made_by_{program}.json").write_text(text, encoding="utf-8")
        out.mkdir(exist_ok=True)
        for path in new.iterdir():
            path.replace(out / path.name)
