"""Which folder may import what, read from the code."""

import ast
import re
import subprocess
import sys

import pytest
from conftest import ROOT

MODULES = [path for path in sorted((ROOT / "modules").rglob("*.py")) if path.stat().st_size]
SOURCES = [*MODULES, *ROOT.glob("*.py"), *(ROOT / "scripts").glob("*.py")]
ENTRIES = {"Trainer", "Tester", *(path.stem for path in (ROOT / "scripts").glob("*.py"))}  # programs and scripts


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path):
    """The project's modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & ({name_of(path) for path in MODULES} | {"dataloader"} | ENTRIES)


def test_the_model_knows_images_and_nothing_else():
    for path in (ROOT / "modules/model").glob("*.py"):
        rest = {name for name in imports(path) if not name.startswith("modules.model")}
        assert rest <= {"modules.data.pixels", "modules.runtime", "modules.files"}, path.name


OTHERS = {f"modules.{folder}" for folder in ("model", "train", "score", "show")} | {"dataloader"}


@pytest.mark.parametrize("files, forbidden", [
    ("Tester.py", {"modules.train"}), ("modules/score/*.py", {"modules.train", "modules.show"}),
    ("modules/show/*.py", {"modules.train"}), ("modules/data/*.py", OTHERS), ("modules/pose/*.py", OTHERS),
    ("modules/**/*.py", ENTRIES),
])
def test_what_is_never_imported(files, forbidden):
    """Prediction, scores and figures know nothing of training; no module knows a program or a script."""
    paths = list(ROOT.glob(files))
    assert paths
    for path in paths:
        assert not [name for name in imports(path) for word in forbidden if f"{name}.".startswith(f"{word}.")], path


def test_there_is_no_circle():
    below = {name_of(path): imports(path) for path in [*MODULES, ROOT / "dataloader.py"]}
    done = set()

    def visit(name, way):
        assert name not in way, " -> ".join([*way, name])
        if name not in done:
            for other in sorted(below.get(name, ())):
                visit(other, (*way, name))
            done.add(name)

    for name in below:
        visit(name, ())


def test_progress_is_shown_in_one_way():
    """A bar of tqdm's own fills a log, and a notebook's cell, with thousands of lines."""
    users = [path for path in SOURCES
             if re.search(r"^\s*(from|import) tqdm", path.read_text(encoding="utf-8"), re.MULTILINE)]
    assert users == [ROOT / "modules/progress.py"]


@pytest.mark.parametrize("program", ["Trainer.py", "Tester.py"])
def test_help_and_errors_in_flags_need_not_wait_for_torch(program):
    code = f"import runpy, sys; sys.argv = [{program!r}, '--help']\n" \
           f"try: runpy.run_path({program!r}, run_name='__main__')\n" \
           "except SystemExit: pass\n" \
           "print('\\nLOADED', sorted({'torch', 'numpy', 'matplotlib', 'PIL'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.endswith("LOADED []\n"), result.stdout[-300:] + result.stderr
