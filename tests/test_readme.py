"""The README and docs/: what they name exists, what they quote is the code, the commands in them are taken."""

import importlib.util
import re
import shlex

import pytest
from conftest import ROOT

from modules.options import parse_tester, parse_trainer

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]}
PROGRAMS = {"Trainer.py": parse_trainer, "Tester.py": parse_tester}


def commands():
    """Every command line of Trainer.py and Tester.py in a bash block: the program's name and its arguments."""
    found = []
    for text in PAGES.values():
        for block in re.findall(r"```bash\n(.*?)```", text, re.S):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                for i, word in enumerate(words):
                    if word in PROGRAMS:
                        found.append((word, words[i + 1 :]))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_files_exist(page):
    for path in re.findall(r"\]\((?!http)([^)#]+)", PAGES[page]):
        assert (page.parent / path).exists(), path
    for path in re.findall(r"(?:bash|python3?) ([\w/]+\.(?:py|sh))", PAGES[page]):
        assert (ROOT / path).exists(), path


def test_every_file_has_its_line():
    paths = [path for folder in ("modules", "scripts") for path in ROOT.glob(f"{folder}/**/*.py")]
    files = [path.relative_to(ROOT).as_posix() for path in paths if path.stat().st_size]  # but empty __init__.py
    named = re.findall(r"^((?:modules|scripts)/[\w/]+\.py)  +\S", README, re.M)
    assert sorted(named) == sorted(files)


def test_a_front_page_is_short_and_finished():
    assert len(README.splitlines()) <= 200
    assert "TODO" not in README


@pytest.mark.parametrize("program, arguments", commands())
def test_commands_are_taken(program, arguments):
    PROGRAMS[program](arguments)


def test_quoted_step_is_the_code():
    lines = iter([line.strip() for line in (ROOT / "Trainer.py").read_text(encoding="utf-8").splitlines()])
    quoted = re.search(r"```python\n(.*?)```", README, re.S).group(1).splitlines()
    assert not [line for line in quoted if line.strip() not in lines]  # `in` moves on in lines: the order counts too


def test_page_of_flags_is_what_the_script_writes():
    spec = importlib.util.spec_from_file_location("flags", ROOT / "scripts" / "flags.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert (ROOT / "docs/flags.md").read_text(encoding="utf-8") == script.markdown(), "run scripts/flags.py"
