"""A run that is killed, stopped or resumed ends with the numbers of one that nobody touched."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, SMALL, check_error, run, run_inside

import Trainer as trainer_module
from modules.model.checkpoint import load_checkpoint
from modules.runtime import InputError
from modules.train.distributed import Ranks
from modules.train.resume import Stops, claim_folder

# a tiny run with everything that has a state: Muon and AdamW, an average, teacher forcing by coin
TINY = [*SMALL, "--arch", "template", "--batch_size", 2, "--device", "cpu", "--precision", "fp32", "--tfr", 0.5,
        "--warmup_steps", 2, "--val_every", 2, "--per_save", 2, "--ema", 0.5]
EXACT = ("epoch", "loss", "mse", "kl", "beta", "tfr", "lr", "val_psnr")  # the other columns are clock times


def rows(folder):
    with open(folder / "metrics.csv") as file:
        return [[row[name] for name in EXACT] for row in csv.DictReader(file)]


def tensors(value, name=""):
    """Every tensor and number of a nested checkpoint part, by its path."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in tensors(item, f"{name}/{key}").items()}
    if isinstance(value, (list, tuple)):
        return tensors(dict(enumerate(value)), name)
    return {name: value}


def check_equal(one, other):
    """Two run folders hold the same run: checkpoints bit for bit, rows, pictures."""
    assert rows(one) == rows(other)
    files = {p.relative_to(one) for p in one.rglob("*.*") if p.name != ".lock"}
    assert files == {p.relative_to(other) for p in other.rglob("*.*") if p.name != ".lock"}, "no temporary file is left"
    for file in files:
        if file.suffix == ".ckpt":
            parts = [tensors(load_checkpoint(folder / file)) for folder in (one, other)]
            clock = ("seconds", "_per_second", "save_root")
            parts = [{k: v for k, v in p.items() if not k.endswith(clock)} for p in parts]
            assert parts[0].keys() == parts[1].keys()
            for name, value in parts[0].items():
                same = torch.equal(value, parts[1][name]) if torch.is_tensor(value) else value == parts[1][name]
                assert same, f"{file}: {name}"
        elif file.suffix in (".png", ".gif"):
            assert (one / file).read_bytes() == (other / file).read_bytes(), file


def test_twenty_kills_and_the_result_is_bit_equal(dance, tmp_path):
    flags = ["--DR", dance, *TINY, "--num_epoch", 2, "--epoch_steps", 4, "--save_minutes", 1e-6]
    result = run("tests/forked.py", 5, 20, tmp_path, *flags)
    assert result.returncode == 0, result.stderr
    kinds = result.stdout.split()
    assert {"clock", "half", "fsync", "replace"} <= set(kinds), kinds
    runs = sorted(tmp_path.glob("killed*"))
    for folder in runs:
        check_equal(tmp_path / "whole", folder)
    assert "after step" in (tmp_path / "log.txt").read_text(), "some runs went on within an epoch"


def stop_after(monkeypatch, number, steps):
    """The process gets a signal while it computes the step of that number."""
    original, done = trainer_module.Trainer.step, []

    def step(self, *arguments):
        done.append(1)
        if len(done) == steps:
            os.kill(os.getpid(), number)
        return original(self, *arguments)

    monkeypatch.setattr(trainer_module.Trainer, "step", step)


@pytest.fixture(scope="module")
def whole(dance, tmp_path_factory):
    """The flags of a run, and the folder of it when nobody stops it."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    flags = ["--DR", dance, *TINY, "--num_epoch", 2, "--epoch_steps", 4]
    assert run_inside("Trainer.py", *flags, "--save_root", folder).returncode == 0
    return flags, folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_within_the_epoch(whole, tmp_path, monkeypatch, number):
    flags, folder = whole
    with monkeypatch.context() as patch:
        stop_after(patch, number, 6)
        stopped = run_inside("Trainer.py", *flags, "--save_root", tmp_path / "run")
    assert stopped.returncode == 128 + number
    assert f"Stopped by {number.name} in epoch 1 after step 2 of 4" in stopped.stdout
    within = load_checkpoint(tmp_path / "run/last.ckpt")["training"]["within"]
    assert within["step"] == 2
    again = run_inside("Trainer.py", *flags, "--save_root", tmp_path / "run")
    assert again.returncode == 0 and "at epoch 1, after step 2 of 4." in again.stdout
    check_equal(folder, tmp_path / "run")


def test_a_second_signal_quits_at_once(dance, tmp_path):
    """A process whose steps never end: the first signal is noted, the second ends it; the lock goes with it."""
    code = (
        "import sys, time, Trainer\nfrom modules.runtime import run_program\n"
        "Trainer.Trainer.step = lambda *_: [print('stepping', flush=True)] and [time.sleep(1) for _ in range(99)]\n"
        "run_program(Trainer.main)"
    )
    flags = ["--DR", dance, *TINY, "--num_epoch", 1, "--save_root", tmp_path / "run"]
    command = [sys.executable, "-c", code, *map(str, flags)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        while "stepping" not in (line := process.stdout.readline()):
            assert line, "ended before its first step"
        check_error(run_inside("Trainer.py", *flags), "run: another process is writing to it")
        process.send_signal(signal.SIGTERM)
        time.sleep(1.2)
        assert process.poll() is None
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143
        assert time.monotonic() - begin < 5
    assert run_inside("Trainer.py", *flags, "--epoch_steps", 1).returncode == 0, "the dead process left no lock behind"


def test_a_moved_folder_keeps_its_lock_and_temporary_files_go(tmp_path):
    with claim_folder(tmp_path / "run", overwrite=False):
        (tmp_path / "run/last.ckpt").touch()
        with pytest.raises(InputError, match="another process"):
            claim_folder(tmp_path / "run", overwrite=True)
    assert not (tmp_path / "run.old1").exists()
    (tmp_path / "run/.last.ckpt.abc.tmp").touch()
    with claim_folder(tmp_path / "run", overwrite=False):
        assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", "last.ckpt"}
    with claim_folder(tmp_path / "run", overwrite=True):
        assert (tmp_path / "run.old1/last.ckpt").exists()
        assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock"}


def test_the_same_command_with_a_checkpoint_goes_on_and_another_run_is_refused(dance, trained, tmp_path):
    flags = ["--DR", dance, *TINY, "--save_root", tmp_path / "run", "--ckpt_path", trained[0] / "epoch=0.ckpt"]
    flags += ["--preset", "template", "--epoch_steps", 2]
    assert run_inside("Trainer.py", *flags, "--num_epoch", 2).returncode == 0
    longer = run_inside("Trainer.py", *flags, "--num_epoch", 3)
    assert longer.returncode == 0 and "run/last.ckpt at epoch 2." in longer.stdout
    assert "--num_epoch 2 -> 3" in longer.stdout and "those of a run of the new --num_epoch" in longer.stdout
    other = [*flags[:-6], "--ckpt_path", trained[0] / "epoch=1.ckpt", *flags[-4:], "--num_epoch", 4]
    check_error(run_inside("Trainer.py", *other), "--ckpt_path", "epoch=1.ckpt", "was started from other weights")
    check_error(run_inside("Trainer.py", *flags, "--num_epoch", 4, "--optim", "AdamW"), "--optim AdamW", "with Adam")


def test_another_batch_within_an_epoch_goes_on_at_the_same_share(dance, tmp_path, monkeypatch):
    flags = ["--DR", dance, *TINY, "--num_epoch", 1, "--save_root", tmp_path]
    with monkeypatch.context() as patch:
        stop_after(patch, signal.SIGTERM, 3)
        assert run_inside("Trainer.py", *flags, "--epoch_steps", 6).returncode == 143
    again = run_inside("Trainer.py", *flags, "--epoch_steps", 12, "--batch_size", 1)
    assert again.returncode == 0, again.stderr
    assert "--batch_size 2 -> 1" in again.stdout and "after step 6 of 12" in again.stdout
    assert len(rows(tmp_path)) == 1


def test_the_clock_asks_for_a_save_and_a_signal_outdoes_it(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Stops(save_minutes=2, ranks=Ranks()) as stops:
        assert not stops.save_now()
        now[0] += 119
        assert not stops.save_now()
        now[0] += 2
        assert stops.save_now() and not stops.save_now()
        stops.end_if_asked("here")  # no signal: nothing happens
        os.kill(os.getpid(), signal.SIGINT)
        assert stops.save_now()
        with pytest.raises(SystemExit) as ended:
            stops.end_if_asked("here")
        assert ended.value.code == 130


def break_steps(monkeypatch, broken):
    """The loss of the steps with these numbers, counted over the whole process, is not a number."""
    original, done = trainer_module.frame_loss, []

    def loss(*arguments, **keywords):
        done.append(1)
        return original(*arguments, **keywords) * (float("nan") if len(done) - 1 in broken else 1.0)

    monkeypatch.setattr(trainer_module, "frame_loss", loss)


@pytest.mark.parametrize("optimizer", ["Muon", "AdamW"])
def test_a_step_that_is_not_finite_changes_nothing(dance, tmp_path, monkeypatch, optimizer):
    """Two good steps and two broken ones leave weights and optimizer as the two good ones alone do."""
    flags = ["--DR", dance, *TINY, "--num_epoch", 1, "--lr_schedule", "constant", "--ema", 0, "--optim", optimizer]
    flags += ["--windows", "template"]
    results = [run_inside("Trainer.py", *flags, "--epoch_steps", 2, "--save_root", tmp_path / "2")]
    break_steps(monkeypatch, {2, 3})
    results += [run_inside("Trainer.py", *flags, "--epoch_steps", 4, "--save_root", tmp_path / "4")]
    assert [result.returncode for result in results] == [0, 0], results[1].stderr
    good, skipped = (load_checkpoint(tmp_path / n / "last.ckpt") for n in "24")
    for part in ("state_dict", "optimizer"):
        for name, value in tensors(good[part]).items():
            assert torch.equal(value, tensors(skipped[part])[name]), name
    assert rows(tmp_path / "2")[0][1:4] == rows(tmp_path / "4")[0][1:4], "the means are those of the good steps"
    assert "epoch 0: 2 of 4 steps skipped" in results[1].stdout and "skipped 2" in results[1].stderr


def test_too_many_broken_steps_stop_the_run_and_keep_the_checkpoint(dance, tmp_path, monkeypatch):
    flags = ["--DR", dance, *TINY, "--num_epoch", 9, "--epoch_steps", 2, "--save_root", tmp_path]
    break_steps(monkeypatch, range(3, 1000))
    monkeypatch.setattr("modules.train.resume.MAX_BAD_STEPS", 3)
    result = run_inside("Trainer.py", *flags)
    check_error(result, "3 steps in a row", "last.ckpt is as before", "--lr")
    assert [row[0] for row in rows(tmp_path)] == ["0", "1"], "the streak goes on from one epoch to the next"
    assert load_checkpoint(tmp_path / "last.ckpt")["last_epoch"] == 1


def test_weights_that_overflow_are_not_saved(dance, tmp_path):
    """A rate that drives the weights out of float32 ends with one line; no checkpoint of it is written."""
    flags = ["--DR", dance, *TINY, "--save_root", tmp_path, "--num_epoch", 1, "--epoch_steps", 2, "--optim", "Adam"]
    flags += ["--warmup_steps", 0, "--lr_schedule", "constant", "--clip_norm", 1]
    assert run_inside("Trainer.py", *flags, "--lr", 1e-3).returncode == 0
    before = (tmp_path / "last.ckpt").read_bytes()
    check_error(
        run_inside("Trainer.py", *flags, "--num_epoch", 2, "--epoch_steps", 30, "--lr", 1e9),
        "last.ckpt is as before", "--lr",
    )
    assert (tmp_path / "last.ckpt").read_bytes() == before


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …"),
                                   MemoryError()])
def test_out_of_memory_says_which_flag_to_lower(dance, tmp_path, monkeypatch, error):
    def step(*_):
        raise error

    monkeypatch.setattr(trainer_module.Trainer, "step", step)
    result = run_inside("Trainer.py", "--DR", dance, *TINY, "--num_epoch", 1, "--save_root", tmp_path)
    check_error(result, "out of memory", "--batch_size")


def test_a_signal_that_another_process_noted_first_is_not_a_second_one(monkeypatch):
    class Peers(Ranks):
        def highest(self, value):
            return max(value, Stops.SAVE + signal.SIGTERM)  # another process has noted it, this one not yet

    ends, now = [], [0.0]
    monkeypatch.setattr(os, "_exit", ends.append)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stops = Stops(save_minutes=10, ranks=Peers())
    assert stops.save_now()
    stops._note(signal.SIGTERM, None)
    assert not ends, "its own first"
    stops._note(signal.SIGTERM, None)
    assert not ends, "at the same moment: one event that was told twice"
    now[0] = 2.0
    stops._note(signal.SIGHUP, None)
    assert not ends, "a closing terminal is nobody's impatience"
    stops._note(signal.SIGTERM, None)
    assert ends == [143]
    with pytest.raises(SystemExit, match="143"):
        stops.end_if_asked("in epoch 0")
