"""Write docs/flags.md: every flag of both programs, its default under each preset and its help, from the parsers.

    python scripts/flags.py
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from modules.files import write_text
from modules.options import PRESETS, tester_parser, trainer_parser

HEAD = """# Flags

Written by `python scripts/flags.py` from `modules/options.py`: change the flags there, then run it again.

Every flag of the course template works, and so do the unique prefixes of its names (`--ckpt`). A preset is a named
set of ordinary flags; a flag on the command line wins over it. Tester.py accepts the template's training flags too,
without using them. An empty default means: off, or not given.
"""
OF_THE_MACHINE = {"num_workers": "cores"}  # defaults that are not the same everywhere


def default(action: argparse.Action) -> str:
    """A flag's default as the cell of a table."""
    value = "required" if action.required else OF_THE_MACHINE.get(action.dest, action.default)
    if value is None or isinstance(value, bool):
        return "on" if value else ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(title: str, flags: dict[str, list[argparse.Action]]) -> str:
    """One group of flags, a row each. flags: of every preset; a column for each where their defaults differ."""
    rows = [[default(action) for action in actions] for actions in zip(*flags.values(), strict=True)]
    names = list(flags) if any(len(set(row)) > 1 for row in rows) else ["default"]
    lines = [f"## {title}", "", f"| flag | {' | '.join(names)} | what it is |", "|---" * (len(names) + 2) + "|"]
    for action, defaults in zip(next(iter(flags.values())), rows, strict=True):
        choices = action.choices or (action.metavar or "").strip("{}").split(",")
        flag = " ".join(f"`{word}`" for word in (*action.option_strings, *choices) if word)
        text = action.help.replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| {' | '.join([flag, *defaults[: len(names)], text])} |")
    return "\n".join([*lines, ""])


def markdown() -> str:
    """The text of docs/flags.md. A group that both programs have is written once."""
    tables = {}
    for parsers in ({name: trainer_parser(name) for name in PRESETS}, {"default": tester_parser()}):
        for groups in zip(*(parser._action_groups for parser in parsers.values()), strict=True):  # no public way
            flags = [[a for a in group._group_actions if a.dest != "help"] for group in groups]
            if flags[0]:
                tables.setdefault(groups[0].title, table(groups[0].title, dict(zip(parsers, flags, strict=True))))
    return "\n".join([HEAD, *tables.values()])


if __name__ == "__main__":
    write_text(ROOT / "docs" / "flags.md", markdown())
