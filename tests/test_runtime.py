"""What shells, drives and systems do to both programs: one clear line, or the work goes on; never a traceback."""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import threading

import filelock
import pytest
import torch
from conftest import ROOT, SMALL, check_error, run_inside

from modules import files
from modules.model.checkpoint import load_checkpoint, save_checkpoint
from modules.runtime import InputError, run_program

TINY = [*SMALL, "--preset", "template", "--device", "cpu", "--precision", "fp32", "--num_epoch", 1, "--epoch_steps", 2,
        "--pictures", "none"]


# drives


def test_on_a_drive_without_locks_and_syncing_both_programs_work(dance, tmp_path, monkeypatch):
    def lock(*_, **__):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def fsync(_):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(files.FileLock, "acquire", lock)
    monkeypatch.setattr(os, "fsync", fsync)
    trained = run_inside("Trainer.py", "--DR", dance, *TINY, "--save_root", tmp_path / "run", "--cache_dir",
                         tmp_path / "a")
    assert trained.returncode == 0 and "no locks on this drive" in trained.stderr, trained.stderr
    paths = ["--save_root", tmp_path / "test", "--ckpt_path", tmp_path / "run/best.ckpt", "--cache_dir", tmp_path / "b"]
    tested = run_inside("Tester.py", "--DR", dance, *paths, "--no_baselines", "--pictures", "none")
    assert tested.returncode == 0 and "no locks on this drive" in tested.stderr, tested.stderr


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 400 kB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(path)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_keeps_the_older_checkpoint(dance, small_disk):
    path = small_disk / "run/last.ckpt"
    save_checkpoint(path, {"state_dict": {}, "old": torch.zeros(50_000)})
    before = path.read_bytes()
    with pytest.raises(InputError, match="last.ckpt: cannot be written .*the previous file is unchanged"):
        save_checkpoint(path, {"state_dict": {}, "new": torch.zeros(90_000)})
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["last.ckpt"]
    path.unlink()
    result = run_inside("Trainer.py", "--DR", dance, *TINY, "--save_root", path.parent, "--num_epoch", 3)
    check_error(result, "cannot be written", "No space left", "is unchanged")
    assert not list(path.parent.rglob("*.tmp"))
    if path.exists():
        load_checkpoint(path)


@pytest.mark.parametrize("program, flags, words", [
    ("Trainer.py", ["--save_root", "file/run"], "Not a directory"),
    ("Trainer.py", ["--save_root", "run", "--cache_dir", "file/run"], "Not a directory"),
    ("Tester.py", ["--save_root", "file/run", "--ckpt_path", "best.ckpt"], "Not a directory"),
    ("Trainer.py", ["--save_root", "run", "--DR", "x" * 5000], "name too long"),
    ("Trainer.py", ["--save_root", "run", "--DR", "none"], "none: folder not found"),
    ("Trainer.py", ["--save_root", "run", "--F_dim", "4"], "no model has these sizes"),
    ("Trainer.py", ["--save_root", "run", "--arch", "multiscale", "--frame_H", "20"], "multiples of 8"),
    ("Tester.py", ["--save_root", "test", "--ckpt_path", "none.ckpt"], "none.ckpt"),
    ("Tester.py", ["--save_root", "test", "--ckpt_path", "best.ckpt", "--gt", "none"], "--gt none: not found"),
])
def test_what_flags_can_tell_is_one_line_before_any_image_is_decoded(
    dance, trained, tmp_path, monkeypatch, program, flags, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    shutil.copy(trained[0] / "best.ckpt", tmp_path)
    more = TINY if program == "Trainer.py" else []
    check_error(run_inside(program, "--DR", dance, "--cache_dir", tmp_path / "cache", *more, *flags), words)
    assert not list((tmp_path / "cache").glob("*"))


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


# output and signals


def test_output_that_nobody_reads_ends_nothing(tmp_path):
    code = (
        "import sys\nfrom modules.runtime import run_program\n"
        "def main():\n    for i in range(9999): print(i); print(i, file=sys.stderr)\n"
        f"    open({str(tmp_path / 'done')!r}, 'w')\n"
        "run_program(main)"
    )
    command = ["bash", "-c", '"$0" -c "$1" 2>&1 | head -3; echo ${PIPESTATUS[0]}', sys.executable, code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.split()[-1] == "0" and len(result.stdout.splitlines()) == 4, result.stdout
    assert (tmp_path / "done").exists()


def test_a_console_that_knows_few_letters_is_no_error(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))

    def say():
        print("→ 舞 ü")
        raise InputError("舞")

    with pytest.raises(SystemExit, match="2"):
        run_program(say)
    assert sys.stdout.buffer.getvalue() == b"\\u2192 \\u821e \xfc" + os.linesep.encode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_while_nothing_runs_ends_with_its_code(number):
    def main():
        signal.pthread_kill(threading.get_ident(), number)
        raise AssertionError("not reached")

    before = signal.getsignal(number)
    with pytest.raises(SystemExit, match=str(128 + number)):
        run_program(main)
    assert signal.getsignal(number) == before


# Windows


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
    common = ["--DR", data, "--cache_dir", tmp_path / "cache"]
    trained = run_inside("Trainer.py", *common, *TINY, "--pictures", "all", "--save_root", run)
    assert trained.returncode == 0, trained.stderr
    tested = run_inside("Tester.py", *common, "--save_root", run / "test", "--ckpt_path", run / "best.ckpt",
                        "--submission", "--device", "cpu")
    assert tested.returncode == 0, tested.stderr
    assert "no locks" not in trained.stderr + tested.stderr
    for path in [*run.rglob("*"), *(tmp_path / "cache").rglob("*")]:
        assert not set(path.name) & set('<>:"/\\|?*') and path.name[-1] not in ". ", path
    with files.lock_file(tmp_path / ".lock"):
        assert files.lock_file(tmp_path / ".lock") is None, "others are held off"
