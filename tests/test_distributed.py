"""Several processes, started by torchrun: the numbers of one process with the whole batch; a signal saves the run."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SMALL, check_error, run_inside

from modules.model.checkpoint import load_checkpoint

# teacher forcing by coin, a posterior for one clip of the whole batch, Muon, an average
TINY = [*SMALL, "--arch", "template", "--device", "cpu", "--precision", "fp32", "--tfr", 0.5,
        "--ema", 0.5, "--lr", 1e-3, "--val_vi_len", 4, "--pictures", "none"]


def torchrun(*flags, program="Trainer.py"):
    """Start two processes in a group of their own; their text is read at the end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", program]
    return subprocess.Popen(
        [*map(str, [*command, *flags])], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )


def test_two_processes_give_the_numbers_of_one_with_the_whole_batch_and_one_resumes(dance, tmp_path):
    """Batch 1 + 1 against 2; then one process resumes the run of two."""
    flags = ["--DR", dance, *TINY, "--epoch_steps", 3, "--posterior_share", 0.5, "--num_epoch", 2]
    two = torchrun(*flags, "--save_root", tmp_path / "2", "--batch_size", 1, "--gpu", 2)
    one = run_inside("Trainer.py", *flags, "--save_root", tmp_path / "1", "--batch_size", 2)
    assert one.returncode == 0, one.stderr
    out, err = two.communicate()
    assert two.returncode == 0, err
    assert out.count("epoch 0: validation PSNR") == 1, "one process prints"
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


SLOW = """
import time, Trainer
from modules.runtime import run_program
step = Trainer.Trainer.step
{} = lambda *arguments: (print("begun", flush=True), {})[1]
run_program(Trainer.main)
"""


@pytest.mark.parametrize("slow, steps, begun, where", [
    (("Trainer.Trainer.step", "step(*arguments)"), 100_000, 2, "in epoch 0 after step"),
    (("Trainer.predict", "time.sleep(600)"), 3, 1, "in the validation of epoch 0"),
], ids=["steps", "validation"])
def test_a_signal_to_torchrun_saves_once_and_one_process_resumes(dance, tmp_path, slow, steps, begun, where):
    """In an epoch that would take hours, or a validation that would take ten minutes."""
    (tmp_path / "slow.py").write_text(SLOW.format(*slow))
    flags = ["--DR", dance, *TINY, "--num_epoch", 1, "--save_root", tmp_path / "run", "--batch_size", 1]
    job = torchrun(*flags, "--epoch_steps", steps, program=tmp_path / "slow.py")
    while begun:
        line = job.stdout.readline()
        assert line, job.communicate()[1]
        begun -= "begun" in line
    job.send_signal(signal.SIGTERM)
    out, err = job.communicate()
    assert out.count(f"Stopped by SIGTERM {where}") == 1, out + err
    again = run_inside("Trainer.py", *flags, "--epoch_steps", 3)
    assert again.returncode == 0 and "at epoch 0, after step" in again.stdout, again.stderr


def test_more_than_one_gpu_names_the_command(tmp_path):
    result = run_inside("Trainer.py", "--DR", tmp_path, "--save_root", "my run", "--gpu", 2, "--lr", 0.1)
    check_error(result, f"torchrun --nproc_per_node 2 Trainer.py --DR {tmp_path} --save_root 'my run' --gpu 2 --lr 0.1")
