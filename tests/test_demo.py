"""scripts/demo.py and scripts/test.py, with interpreters that only write down what they are asked for."""

import os
import runpy
import subprocess
import sys
import time

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import environment

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the interpreters are shell scripts")


def write_python(folder, inside, script):
    """A virtual environment whose interpreter is a shell script."""
    python = folder / inside
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return folder


@pytest.mark.parametrize("system, inside", [("win32", "Scripts/python.exe"), ("linux", "bin/python")])
def test_the_two_commands_find_the_interpreter_of_every_system(tmp_path, monkeypatch, capsys, system, inside):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setenv("VENV", str(write_python(tmp_path / "venv", inside, f'echo "$@" >> "{tmp_path}/asked"')))
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    (tmp_path / "runs/demo-data/test/seq0").mkdir(parents=True)
    (tmp_path / "runs/demo-data/test/seq0/panel.png").touch()
    monkeypatch.chdir(tmp_path)
    for script, flags in (("demo", ["data"]), ("demo", ["--pretrained", "data"]), ("test", ["-k", "one"])):
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *flags])
        runpy.run_path(str(ROOT / f"scripts/{script}.py"), run_name="__main__")
    first, train, predict, _, pretrained, second, check, test = (tmp_path / "asked").read_text().splitlines()
    assert first.endswith("-r requirements.txt") and "pytest" in second
    assert train.startswith(f"Trainer.py --DR {tmp_path}/data --save_root runs/demo-data ")
    assert predict.startswith("Tester.py") and predict.endswith("runs/demo-data/best.ckpt")
    assert pretrained.endswith("docs/pretrained/dancer.ckpt")
    assert check.startswith("-m ruff") and test.endswith("-k one")
    assert "Look at:\n  runs/demo-data/test/seq0/panel.png\n" in capsys.readouterr().out


def test_a_signal_to_the_demo_is_its_programs_and_so_is_the_exit_code(tmp_path):
    wait = f'touch "{tmp_path}/begun"; trap "exit 7" TERM; while :; do sleep 0.1; done'
    environment = os.environ | {"VENV": str(write_python(tmp_path / "venv", "bin/python", wait))}
    with subprocess.Popen([sys.executable, ROOT / "scripts/demo.py", "data"], env=environment) as process:
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        time.sleep(0.2)
        process.terminate()
        assert process.wait() == 7


def test_an_old_interpreter_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 9))
    monkeypatch.setenv("VENV", str(tmp_path / "venv"))
    with pytest.raises(SystemExit, match="2"):
        environment.make_environment()
    assert capsys.readouterr().err == "error: Python 3.10 or newer is needed: start this script with one\n"
    assert not (tmp_path / "venv").exists()
