"""Several processes: the numbers of one process with the whole batch, one that dies ends all, any number goes on."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, SMALL, check_error, run_inside

from modules.model.checkpoint import load_checkpoint
from modules.train.distributed import Ranks

# teacher forcing by coin, a posterior for one clip of the whole batch, Muon, an average
TINY = [*SMALL, "--arch", "template", "--device", "cpu", "--precision", "fp32", "--tfr", 0.5,
        "--ema", 0.5, "--lr", 1e-3, "--val_vi_len", 4]


def start(*flags):
    """Start Trainer.py in a process group of its own; its text is read at the end."""
    command = [sys.executable, "Trainer.py", *map(str, flags)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process, timeout=120):
    """The finished process with its text."""
    out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def children(process):
    """Process ids of the trainers that `process` has started."""
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        found = map(int, file.read().split())
    return [child for child in found if b"spawn_main" in open(f"/proc/{child}/cmdline", "rb").read()]  # noqa: SIM115


def wait_for(condition, seconds=100):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def test_shares_make_the_whole():
    whole = torch.arange(12).reshape(6, 2)
    shares = [Ranks(rank, 3).share(whole) for rank in range(3)]
    assert torch.equal(torch.stack(shares, dim=1).flatten(0, 1), whole)
    assert torch.equal(Ranks(1, 3).share(whole.T, dim=1), shares[1].T)
    for first in range(7):  # the leading clips of the whole are the leading clips of each share
        counts = [Ranks(rank, 3).count_share(first) for rank in range(3)]
        assert sum(counts) == first
        for rank, count in enumerate(counts):
            assert (shares[rank][:count, 0] // 2 < first).all() and (shares[rank][count:, 0] // 2 >= first).all()


def test_two_processes_give_the_numbers_of_one_with_the_whole_batch_and_one_goes_on(dance, tmp_path):
    """Batch 1 + 1 against 2, with validation shared out; then the run of two goes on with one process."""
    flags = ["--DR", dance, *TINY, "--epoch_steps", 3, "--posterior_share", 0.5, "--num_epoch", 2]
    two = start(*flags, "--save_root", tmp_path / "2", "--batch_size", 1, "--gpu", 2)
    one = run_inside("Trainer.py", *flags, "--save_root", tmp_path / "1", "--batch_size", 2)
    assert one.returncode == 0, one.stderr
    result = finish(two)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("epoch 0: validation PSNR") == 1, "one process prints"
    single, double = (load_checkpoint(tmp_path / n / "last.ckpt") for n in "12")
    for part in ("weights", "averaged"):
        for name, tensor in single["training"][part].items():
            if name == "label_transformation.1.bias":
                continue  # the norm after it makes its gradient zero: Adam only amplifies rounding
            torch.testing.assert_close(double["training"][part][name], tensor, rtol=1e-3, atol=1e-5, msg=name)
    for row, other in zip(single["training"]["history"], double["training"]["history"], strict=True):
        for name in ("loss", "mse", "kl", "beta", "tfr", "lr", "val_psnr"):
            assert other[name] == pytest.approx(row[name], rel=1e-4), name
    again = run_inside("Trainer.py", *flags[:-1], 3, "--save_root", tmp_path / "2", "--batch_size", 2)
    assert again.returncode == 0 and "at epoch 2." in again.stdout, again.stderr
    assert len(load_checkpoint(tmp_path / "2/last.ckpt")["training"]["history"]) == 3


def test_a_killed_process_ends_the_job_and_the_run_goes_on(dance, tmp_path):
    flags = ["--DR", dance, *TINY, "--num_epoch", 1, "--save_root", tmp_path, "--batch_size", 1]
    job = start(*flags, "--epoch_steps", 100_000, "--gpu", 2, "--save_minutes", 1e-3)
    wait_for((tmp_path / "last.ckpt").exists)
    begin = time.monotonic()
    os.kill(children(job)[1], signal.SIGKILL)
    result = finish(job, timeout=30)
    assert time.monotonic() - begin < 30
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    assert "error: " in result.stderr and "the same command goes on" in result.stderr
    again = run_inside("Trainer.py", *flags, "--epoch_steps", 3)
    assert again.returncode == 0, again.stderr
    assert "at epoch 0, after step" in again.stdout


def test_a_signal_to_the_job_saves_once_and_a_second_start_is_refused(dance, tmp_path):
    flags = ["--DR", dance, *TINY, "--num_epoch", 1, "--save_root", tmp_path, "--batch_size", 1]
    job = start(*flags, "--epoch_steps", 100_000, "--gpu", 2, "--save_minutes", 1e-3)
    wait_for((tmp_path / "last.ckpt").exists)
    check_error(run_inside("Trainer.py", *flags), "another process is writing to it")
    job.send_signal(signal.SIGTERM)
    result = finish(job)
    assert result.returncode == 143, result.stderr
    assert result.stdout.count("Stopped by SIGTERM in epoch 0 after step") == 1
    within = load_checkpoint(tmp_path / "last.ckpt")["training"]["within"]
    assert within["plan"]["batch"] == 2, "one batch of both"


def test_bad_input_is_said_once(tmp_path):
    result = finish(start("--DR", tmp_path / "none", "--save_root", tmp_path, *TINY, "--gpu", 2))
    check_error(result, "none: folder not found")
