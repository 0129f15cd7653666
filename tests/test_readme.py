"""README and docs/: files that they name exist, commands in them are taken, and code that they quote is the code."""

import re
import shlex

import pytest
from conftest import ROOT
from PIL import Image

from modules.options import parse_tester, parse_trainer

PAGES = {path: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]}
README, LOG = PAGES[ROOT / "README.md"], ROOT / "docs/experiments.md"  # the log names scripts of its time
PYTHON = {path: re.findall(r"```python\n(.*?)```", text, re.S) for path, text in PAGES.items()}
PROGRAMS = {"Trainer.py": parse_trainer, "Tester.py": parse_tester}
COMMAND = r"^(?:!|torchrun .*|python3? )?({}) (--.*)$".format("|".join(PROGRAMS))


def commands():
    """Every command line of the two programs in a block of code: the program and its arguments."""
    for text in PAGES.values():
        for block in re.findall(r"```bash\n(.*?)```", text, re.S):
            for program, words in re.findall(COMMAND, block.replace("\\\n", " "), re.M):
                yield program, shlex.split(words, comments=True)


def headings(page):
    """The names by which a link reaches the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", PAGES[page], re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_scripts_exist(page):
    for path, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", PAGES[page]):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert not anchor or anchor in headings(target), f"{path}#{anchor}"
    for path in re.findall(r"(?:bash|python3?) ([\w/]+\.(?:py|sh))", PAGES[page]):
        assert page == LOG or (ROOT / path).exists(), path


def test_pages_are_few_and_the_first_is_short():
    assert len(README.splitlines()) < 190 and len(PAGES) - 1 <= 9
    assert (ROOT / "docs/images/dancer.gif").stat().st_size <= 3e6
    assert not [page for page, text in PAGES.items() if "TODO" in text]


def test_folders_of_the_front_page_are_those_of_the_project():
    named = set(re.findall(r"^(\w+/(?:\w+/)?) ", README, re.M))
    folders = {f"{path.relative_to(ROOT).as_posix()}/" for path in ROOT.glob("modules/*/") if any(path.glob("*.py"))}
    assert named == {"modules/", "scripts/", "tests/", "docs/", *folders}


@pytest.mark.parametrize("program, arguments", list(commands()))
def test_commands_are_taken(program, arguments):
    PROGRAMS[program](arguments)


def test_quoted_step_is_the_code():
    code = iter([line.strip() for line in (ROOT / "Trainer.py").read_text(encoding="utf-8").splitlines()])
    quoted = next(block for block in PYTHON[ROOT / "docs/model.md"] if "self.model" in block).splitlines()
    assert not [line for line in quoted if line.strip() not in code]  # `in` moves on in the code: order counts too


def test_the_lines_for_a_notebook(dance, trained, tmp_path, monkeypatch):
    """With a small data set and checkpoint."""
    lines = next(block for block in PYTHON[ROOT / "README.md"] if "import" in block)
    for name, path in (("LAB4_Dataset", dance), ("runs/best/best.ckpt", trained[0] / "best.ckpt")):
        lines = lines.replace(f'"{name}"', f'"{path}"')
    monkeypatch.chdir(tmp_path)
    exec(lines, {})
    with Image.open("video.gif") as video:
        assert (video.n_frames, *video.size) == (10, 32, 16)


def test_tests_that_pages_name_exist():
    code = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/*.py"))
    named = {name for text in PAGES.values() for name in re.findall(r"`(test_\w+)`", text)}
    assert named and not [name for name in named if f"def {name}(" not in code]
