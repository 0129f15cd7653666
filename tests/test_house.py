"""What must never be: which room may import what, read from the code."""

import ast
import re
import subprocess
import sys

import pytest
from conftest import ROOT

MODULES = sorted((ROOT / "modules").rglob("*.py"))
SCRIPTS = {path.stem for path in (ROOT / "scripts").glob("*.py")}  # they import each other by these names


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path):
    """The project's modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    known = {name_of(p) for p in MODULES} | {"dataloader", "Trainer", "Tester"} | SCRIPTS
    return found & known


def test_the_model_knows_pictures_and_nothing_else():
    for path in (ROOT / "modules/model").glob("*.py"):
        rest = {name for name in imports(path) if not name.startswith("modules.model")}
        assert rest <= {"modules.data.pixels", "modules.data", "modules.runtime", "modules.files", "modules"}, path.name


def test_prediction_scores_and_pictures_know_nothing_of_training():
    for path in [ROOT / "Tester.py", *(ROOT / "modules/score").glob("*.py"), *(ROOT / "modules/show").glob("*.py")]:
        assert not any(name.startswith("modules.train") for name in imports(path)), path.name


def test_no_module_imports_an_entry_point_or_a_script():
    for path in MODULES:
        assert not imports(path) & {"Trainer", "Tester", *SCRIPTS}, path.name


def test_progress_is_shown_in_one_way():
    """A bar of tqdm's own fills a log, and a notebook's cell, with thousands of states."""
    sources = [*MODULES, *ROOT.glob("*.py"), *(ROOT / "scripts").glob("*.py")]
    users = [path for path in sources if re.search(r"^\s*(from|import) tqdm", path.read_text(), re.MULTILINE)]
    assert users == [ROOT / "modules/progress.py"]


def test_there_is_no_circle():
    below = {name_of(path): imports(path) - {name_of(path)} for path in [*MODULES, ROOT / "dataloader.py"]}
    done = set()

    def visit(name, way):
        assert name not in way, " -> ".join([*way, name])
        if name not in done:
            for other in sorted(below.get(name, ())):
                visit(other, (*way, name))
            done.add(name)

    for name in below:
        visit(name, ())


@pytest.mark.parametrize("program", ["Trainer.py", "Tester.py"])
def test_help_and_errors_in_flags_need_not_wait_for_torch(program):
    code = f"import runpy, sys; sys.argv = [{program!r}, '--help']\n" \
           f"try: runpy.run_path({program!r}, run_name='__main__')\n" \
           "except SystemExit: pass\n" \
           "print('\\nLOADED', sorted({'torch', 'numpy', 'matplotlib', 'PIL'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.endswith("LOADED []\n"), result.stdout[-300:] + result.stderr
