"""A data set is written whole or not at all: into a folder beside OUT, whose entries are then moved there."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from modules.runtime import InputError


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
    """An empty folder to write into. When the block ends without an error its entries are moved to OUT, beside a file
    made_by_<program>.json that holds the settings; after an error nothing has changed."""
    check_out(out)
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{program}_", dir=out.parent) as temporary:
        new = Path(temporary, "new")
        new.mkdir()
        yield new
        text = json.dumps(settings, indent=1, default=str) + "\n"
        (new / f"made_by_{program}.json").write_text(text, encoding="utf-8")
        out.mkdir(exist_ok=True)
        for path in new.iterdir():
            path.replace(out / path.name)
