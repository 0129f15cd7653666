"""A data set is written whole or not at all: into a folder beside OUT, whose entries are then moved there."""

import contextlib
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from modules.runtime import InputError

ENTRIES = ("train", "val", "test", "openpose", "keypoints.json")
OURS = (r"(train|val)/\1_(img|label)(/frame\d{6}\.png)?|test/test_(img|label|gt)(/\d+(/frame\d{6}\.png)?)?|"
        r"openpose/(train|val|test(/\d+)?)(/frame\d{6}_keypoints\.json)?")


def check_out(out: Path, program: str, overwrite: bool) -> None:
    """InputError if something in OUT would be lost."""
    try:
        empty = not out.exists() or not any(out.iterdir())
    except OSError as error:
        raise InputError(f"{out}: not a folder that can be written to ({error.strerror})") from None
    if not empty and not overwrite:
        raise InputError(f"{out} is not empty (--overwrite replaces a set that this script made)")
    inside = [path for entry in ENTRIES for path in (out / entry).rglob("*")]
    ours = all(re.fullmatch(OURS, path.relative_to(out).as_posix()) and not path.is_symlink() for path in inside)
    if not empty and not (ours and (out / f"made_by_{program}.json").is_file()):
        raise InputError(f"{out} holds files that this script did not write: choose another folder")


@contextlib.contextmanager
def new_dataset(out: Path, program: str, overwrite: bool, settings: dict) -> Iterator[Path]:
    """An empty folder to write into. When the block ends without an error its entries replace those of OUT, beside a
    file made_by_<program>.json that holds the settings; after an error nothing has changed."""
    check_out(out, program, overwrite)
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{program}_", dir=out.parent) as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        new.mkdir()
        old.mkdir()
        yield new
        text = json.dumps(settings, indent=1, default=str) + "\n"
        (new / f"made_by_{program}.json").write_text(text, encoding="utf-8")
        out.mkdir(exist_ok=True)
        for entry in ENTRIES:
            if (out / entry).exists():
                (out / entry).rename(old / entry)  # deleted with the temporary folder
        for path in new.iterdir():
            path.replace(out / path.name)
