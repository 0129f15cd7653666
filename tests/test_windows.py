"""Nothing that Windows lacks is needed: each such thing is taken away, and both programs run."""

import ast
import io
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time

import filelock
import pytest
from conftest import ROOT, SMALL, run_inside

from modules import files
from modules.runtime import InputError, run_program

CODE = [*ROOT.glob("*.py"), *(ROOT / "modules").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
POSIX = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}  # modules of Python


@pytest.fixture
def windows(monkeypatch):
    """What Windows lacks is gone, and links may not be made."""
    def refuse(*_, **__):
        raise OSError(22, "A required privilege is not held by the client")

    for name in dir(signal):
        if name.startswith("SIG") and name[3:] not in ("_DFL", "_IGN", "INT", "TERM", "ABRT", "FPE", "ILL", "SEGV"):
            monkeypatch.delattr(signal, name)
    for name in ("posix_fallocate", "setsid", "fork", "getuid", "geteuid", "getpgid", "killpg", "mkfifo", "sysconf"):
        monkeypatch.delattr(os, name)
    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setenv("USERNAME", "student")
    monkeypatch.setattr(files, "FileLock", filelock.SoftFileLock)  # what filelock gives where there is no fcntl


def test_both_programs_run_without_what_windows_lacks(dance, tmp_path, windows):
    data, run = tmp_path / "舞 data", tmp_path / "lauf ü"
    shutil.copytree(dance, data)
    common = ["--DR", data, "--cache_dir", tmp_path / "cache", "--device", "cpu", "--precision", "fp32"]
    flags = [*common, *SMALL, "--preset", "template", "--num_epoch", 1, "--epoch_steps", 2, "--save_root", run]
    trained = run_inside("Trainer.py", *flags)
    assert trained.returncode == 0, trained.stderr
    tested = run_inside("Tester.py", *common, "--save_root", run / "test", "--ckpt_path", run / "best.ckpt",
                        "--submission")
    assert tested.returncode == 0, tested.stderr
    assert "no locks" not in trained.stderr + tested.stderr
    for path in [*run.rglob("*"), *(tmp_path / "cache").rglob("*")]:
        assert not set(path.name) & set('<>:"/\\|?*') and path.name[-1] not in ". ", path


def test_a_lock_without_fcntl_holds_others_off(tmp_path, windows):
    with files.lock_file(tmp_path / ".lock"):
        assert files.lock_file(tmp_path / ".lock") is None


def test_a_file_that_is_being_read_is_replaced_a_little_later(tmp_path, monkeypatch):
    tries, original = [], os.replace

    def busy(*paths):
        tries.append(1)
        if len(tries) < 3:
            raise PermissionError(13, "The process cannot access the file because it is being used")
        return original(*paths)

    monkeypatch.setattr(os, "replace", busy)
    with pytest.raises(InputError, match="being used"):
        files.write_text(tmp_path / "a", "one")
    monkeypatch.setattr(files, "RETRY_SECONDS", (0, 0))
    files.write_text(tmp_path / "a", "one")
    assert (tmp_path / "a").read_text() == "one" and len(tries) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            yield node, function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_code_names_nothing_of_one_system(path):
    """Text has its encoding (that of Windows is not UTF-8), modules of POSIX are tried, the null device has no name."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    tried = {id(node) for block in ast.walk(tree) if isinstance(block, ast.Try) for node in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and id(node) not in tried:
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not names & POSIX, f"line {node.lineno}"
    for node, name in calls(tree):
        given = {keyword.arg for keyword in node.keywords}
        modes = [ast.literal_eval(word) for word in node.args[1:2] if isinstance(word, ast.Constant)]
        opens = name == "open" and isinstance(node.func, ast.Name) and not any("b" in mode for mode in modes)
        writes = name == "write_text" and isinstance(node.func, ast.Attribute)
        texts = "text" in given and name in ("run", "Popen", "check_output")
        if opens or writes or name == "read_text" or texts:
            assert "encoding" in given, f"line {node.lineno}: no encoding"
    assert '"/dev/' not in text


def test_a_console_that_knows_few_letters_is_no_error(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))

    def say():
        print("→ 舞 ü")
        raise InputError("舞")

    with pytest.raises(SystemExit, match="2"):
        run_program(say)
    sys.stdout.flush()
    assert sys.stdout.buffer.getvalue() == b"\\u2192 \\u821e \xfc" + os.linesep.encode()


# scripts/demo.py and scripts/test.py


def write_python(folder, inside, script):
    """A virtual environment whose interpreter is a shell script."""
    python = folder / inside
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return folder


@pytest.mark.parametrize("system, inside", [("win32", "Scripts/python.exe"), ("linux", "bin/python")])
@pytest.mark.skipif(os.name == "nt", reason="the interpreter that only notes is a shell script")
def test_the_two_commands_find_the_interpreter_of_every_system(tmp_path, monkeypatch, capsys, system, inside):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    monkeypatch.setenv("VENV", str(write_python(tmp_path / "venv", inside, f'echo "$@" >> "{tmp_path}/asked"')))
    monkeypatch.setenv("RUN", str(tmp_path / "run"))
    (tmp_path / "run/test/seq0").mkdir(parents=True)
    (tmp_path / "run/test/seq0/panel.png").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo.py", "data"])
    runpy.run_path(str(ROOT / "scripts/demo.py"), run_name="__main__")
    monkeypatch.setattr(sys, "argv", ["test.py", "-k", "one"])
    runpy.run_path(str(ROOT / "scripts/test.py"), run_name="__main__")
    first, train, predict, second, check, test = (tmp_path / "asked").read_text().splitlines()
    assert first.endswith("-r requirements.txt") and "pytest" in second
    assert train.startswith(f"Trainer.py --DR {tmp_path}/data ") and predict.startswith("Tester.py")
    assert check.startswith("-m ruff") and test.endswith("-k one")
    assert capsys.readouterr().out.endswith(f"Look at:\n  {tmp_path}/run/test/seq0/panel.png\n")


@pytest.mark.skipif(os.name == "nt", reason="the interpreter that waits is a shell script")
def test_a_signal_to_the_demo_is_its_programs_and_so_is_the_exit_code(tmp_path):
    wait = f'touch "{tmp_path}/begun"; trap "exit 7" TERM; while :; do sleep 0.1; done'
    environment = os.environ | {"VENV": str(write_python(tmp_path / "venv", "bin/python", wait))}
    with subprocess.Popen([sys.executable, ROOT / "scripts/demo.py", "data"], env=environment) as process:
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        time.sleep(0.2)
        process.terminate()
        assert process.wait(20) == 7


def test_an_interpreter_that_is_not_there_or_too_old_is_one_line(tmp_path):
    for python in (tmp_path / "none", write_python(tmp_path / "old", "python", "exit 1") / "python"):
        environment = os.environ | {"VENV": str(tmp_path / "venv"), "PYTHON": str(python)}
        command = [sys.executable, ROOT / "scripts/demo.py"]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
        assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
        assert "PYTHON" in result.stderr and not (tmp_path / "venv").exists()
