"""scripts/demo.py and scripts/test.py, with an interpreter that only writes down what it is asked for."""

import os
import runpy
import subprocess
import sys
import time

import environment
import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the interpreter is a shell script")


def write_python(venv, script):
    python = venv / "bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)


def test_which_commands_they_start(tmp_path, monkeypatch, capsys):
    write_python(tmp_path / "venv", f'echo "$@" >> "{tmp_path}/asked"')
    monkeypatch.setenv("VENV", str(tmp_path / "venv"))
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
    write_python(tmp_path / "venv", f'trap "exit 7" TERM; touch "{tmp_path}/begun"; while :; do sleep 0.1; done')
    variables = os.environ | {"VENV": str(tmp_path / "venv")}
    with subprocess.Popen([sys.executable, ROOT / "scripts/demo.py", "data"], env=variables) as process:
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        time.sleep(0.2)  # until the demo has its handlers
        process.terminate()
        assert process.wait() == 7
