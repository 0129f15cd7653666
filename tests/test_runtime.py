"""What shells, drives and systems do to both programs: one clear line, or the work goes on; never a traceback."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading

import filelock
import pytest
import torch
from conftest import ROOT, SMALL, check_error, run, run_inside

from modules import files
from modules.device import pick_device, pick_precision
from modules.runtime import InputError, run_program

TINY = [*SMALL, "--preset", "template", "--device", "cpu", "--precision", "fp32", "--num_epoch", 1, "--epoch_steps", 2]
NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")


def locks_and_syncing(monkeypatch):
    """A network drive that knows neither."""
    def lock(*_, **__):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def fsync(_):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(files.FileLock, "acquire", lock)
    monkeypatch.setattr(os, "fsync", fsync)


def what_windows_lacks(monkeypatch):
    for name in dir(signal):
        if name.startswith("SIG") and name[3:] not in ("_DFL", "_IGN", "INT", "TERM", "ABRT", "FPE", "ILL", "SEGV"):
            monkeypatch.delattr(signal, name)
    for name in ("posix_fallocate", "setsid", "fork", "getuid", "geteuid", "getpgid", "killpg", "mkfifo", "sysconf"):
        monkeypatch.delattr(os, name)
    monkeypatch.setattr(files, "FileLock", filelock.SoftFileLock)  # Windows' own exists only there


@pytest.mark.parametrize("missing, warned", [(locks_and_syncing, True), (what_windows_lacks, False)])
def test_both_programs_run_without(dance, tmp_path, monkeypatch, missing, warned):
    missing(monkeypatch)
    shutil.copytree(dance, tmp_path / "舞 data")
    run, common = tmp_path / "lauf ü", ["--DR", tmp_path / "舞 data", "--cache_dir", tmp_path / "cache"]
    for program, *flags in (
        ("Trainer.py", *TINY, "--save_root", run),
        ("Tester.py", "--save_root", run / "test", "--ckpt_path", run / "best.ckpt", "--submission", "--no_baselines"),
    ):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        result = run_inside(program, *common, *flags)
        assert result.returncode == 0 and ("no locks on this drive" in result.stderr) == warned, result.stderr
    for path in [*run.rglob("*"), *(tmp_path / "cache").rglob("*")]:
        assert not set(path.name) & set('<>:"/\\|?*') and path.name[-1] not in ". ", "a name that Windows takes"


def test_in_a_notebook_that_may_write_little(dance, tmp_path):
    """Both programs with what Colab exports, without a home: all files are in the run's folder and the cache."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "home").touch()  # nobody can make a folder in it, root neither
    environment = {name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", "MPLCONFIGDIR")}
    environment |= {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline", "COLAB_RELEASE_TAG": "release-colab_20250101",
        "HOME": str(tmp_path / "home/missing"), "TMPDIR": str(tmp_path / "temporary"), "PYTHONDONTWRITEBYTECODE": "1",
    }
    before = sorted(dance.rglob("*"))
    for program, *flags in (("Trainer.py", *TINY), ("Tester.py", "--ckpt_path", tmp_path / "run/best.ckpt")):
        result = run(program, "--DR", dance, "--save_root", tmp_path / "run", *flags, env=environment)
        assert result.returncode == 0 and len(result.stderr.splitlines()) <= 12, result.stderr
        assert "\r" not in result.stdout + result.stderr, "a cell keeps every redrawing"
    assert all((tmp_path / "run" / name).exists() for name in ("figures/loss_curve.png", "seq0/panel.png"))
    assert sorted(dance.rglob("*")) == before
    assert {path.name for path in tmp_path.iterdir()} == {"run", "home", "temporary"}
    written = {path.relative_to(tmp_path / "temporary").parts[0] for path in (tmp_path / "temporary").rglob("*.*")}
    assert [name.startswith("pose2video") for name in written] == [True], written


def test_a_full_disk_keeps_the_older_checkpoint(dance, tmp_path, monkeypatch):
    flags = ["--DR", dance, *TINY, "--save_root", tmp_path, "--pictures", "none"]
    assert run_inside("Trainer.py", *flags).returncode == 0
    before, original = (tmp_path / "last.ckpt").read_bytes(), os.fsync

    def fsync(file):
        if os.fstat(file).st_size > 10_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(file)

    monkeypatch.setattr(os, "fsync", fsync)
    words = "last.ckpt: cannot be written (No space left on device); the previous file is unchanged"
    check_error(run_inside("Trainer.py", *flags, "--num_epoch", 2), words)
    assert (tmp_path / "last.ckpt").read_bytes() == before and not list(tmp_path.rglob("*.tmp"))


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
    *(pytest.param("Trainer.py", ["--save_root", "run", "--device", name], f"--device {name}: torch", marks=NO_CUDA)
      for name in ("cuda:3", "mps", "cuda:x", "cuda:²", "gpu")),
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


def test_any_accelerator_that_torch_knows_is_used(monkeypatch):
    """A pretended Mac: this machine's torch cannot compute on mps, not even with fake tensors."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("mps"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    assert [pick_device(name).type for name in (None, "mps", "cpu")] == ["mps", "mps", "cpu"]
    assert pick_precision("auto", torch.device("mps")) == torch.float32
    for name in ("cuda", "mps:1"):
        with pytest.raises(InputError, match="expected cpu, mps"):
            pick_device(name)


@pytest.mark.parametrize("error, words", [
    (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), "--batch_size"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …"), "--batch_size"),
    *((RuntimeError(text), "--batch_size") for text in (
        "CUDA error: out of memory", "cuDNN: CUDNN_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: not enough memory")),
    (OSError(12, "Cannot allocate memory"), "--batch_size"),
    (MemoryError(), "--batch_size"), (OSError(28, "No space left", "a.png"), "a.png: No space left"),
])
def test_what_the_machine_lacks_is_one_line(capsys, error, words):
    def main():
        raise error

    with pytest.raises(SystemExit, match="2"):
        run_program(main)
    assert words in capsys.readouterr().err


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_while_nothing_runs_ends_with_its_code(number):
    def main():
        signal.pthread_kill(threading.get_ident(), number)
        raise AssertionError("not reached")

    before = signal.getsignal(number)
    with pytest.raises(SystemExit, match=str(128 + number)):
        run_program(main)
    assert signal.getsignal(number) == before


def test_under_nohup_a_closed_terminal_is_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_program(lambda: os.kill(os.getpid(), signal.SIGHUP) or "the end") == "the end"
    finally:
        signal.signal(signal.SIGHUP, before)
