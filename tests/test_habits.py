"""What people type and run on: the table of docs/running.md names these tests."""

import ast
import importlib.util
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import types

import environment
import pytest
import torch
from conftest import ROOT, SMALL, run, run_inside
from test_options import NEEDED, plan
from torch._subclasses.fake_tensor import FakeTensorMode

import dataloader
import modules
import Trainer as trainer_module
from modules.device import pick_precision
from modules.model.vae import VAE_Model
from modules.options import parse_trainer
from modules.runtime import InputError, run_program, start
from modules.show.runs import read_history
from modules.train import distributed

TINY = [*SMALL, "--arch", "template", "--device", "cpu", "--epoch_steps", 1, "--pictures", "none"]


def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert pick_precision("auto", torch.device("cuda")) == torch.float32


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_a_training_step_keeps_all_tensors_on_the_gpu(dance, monkeypatch):
    """With tensors that only know shape and device. Torch has no backward and no fused optimizer for them."""
    flags = ["--DR", dance, "--save_root", "x", *SMALL, "--train_vi_len", 2, "--ema", 0.5]
    trainer = trainer_module.Trainer(parse_trainer([*map(str, flags), "--preset", "recursive", "--device", "cpu"]))
    trainer.device = trainer.feed.device = torch.device("cuda")
    fused, new_model = set(), trainer_module.new_model
    monkeypatch.setattr(torch, "_fused_adamw_", lambda *lists, lr, found_inf, **_: fused.update(
        tensor.device.type for tensor in (*sum(lists, []), lr, found_inf)))
    monkeypatch.setattr("modules.train.feed.random_generator", lambda *_: None)  # a GPU's needs its driver
    monkeypatch.setattr("modules.train.feed.toss", lambda *_: True)
    monkeypatch.setattr(torch.Tensor, "backward", lambda _: [
        setattr(parameter, "grad", torch.zeros_like(parameter)) for parameter in trainer.model.parameters()])
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            trainer.model, trainer.ema = new_model(trainer.args), new_model(trainer.args)
        trainer.optimizers = trainer_module.build_optimizers("Muon", trainer.model, 0.1, 0.1, torch.bfloat16)
        progress = trainer.begin(0)
        progress.add(*trainer.step(next(trainer.feed.batches(0))), 1.0)
    assert progress.sums.device.type == "cuda" and fused == {"cuda"}


def test_frozen_weights_have_no_gradient_with_several_processes(monkeypatch):
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda values: values.mul_(2))
    model = torch.nn.Sequential(torch.nn.Linear(2, 1).requires_grad_(False), torch.nn.Linear(1, 1, bias=False))
    model(torch.ones(1, 2)).sum().backward()
    before = model[1].weight.grad.clone()
    distributed.Ranks(0, 2).average_gradients(model)
    assert model[0].weight.grad is None and torch.equal(model[1].weight.grad, before)


def test_zero_switches_off_and_a_long_run_is_planned_in_one_pass(dance, tmp_path):
    off = ["--clip_norm", 0, "--val_every", 0, "--per_save", 0, "--save_minutes", 0, "--tfr", 1, "--tfr_d_step", 2]
    run_inside("Trainer.py", "--DR", dance, "--save_root", tmp_path, *TINY, *off, "--num_epoch", 2)
    assert [path.name for path in tmp_path.glob("epoch=*.ckpt")] == ["epoch=1.ckpt"]
    assert [row["val_psnr"] is None for row in read_history(tmp_path / "metrics.csv")] == [True, False]
    begin = time.process_time()
    plan("--num_epoch", 30_000).describe()
    assert time.process_time() - begin < 10, "a walk from the beginning for every epoch takes minutes"


def test_a_second_test_leaves_no_file_of_the_first(dance, trained, tmp_path):
    (tmp_path / "seq5").mkdir()
    for file in ("seq5/frames.npz", "seq5/panel.mp4", "seq5/notes.txt", "submission.csv", "pred_seq5.gif"):
        (tmp_path / file).touch()
    flags = ["--ckpt_path", trained[0] / "best.ckpt", "--no_baselines", "--pictures", "none"]
    assert run_inside("Tester.py", "--DR", dance, "--save_root", tmp_path, *flags).returncode == 0
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert left == {"metrics.json", "seq0/frames.npz", "seq1/frames.npz", "seq5/notes.txt"}


@pytest.mark.parametrize("call, error, words", [
    (lambda: VAE_Model(parse_trainer(NEEDED)), ValueError, r"VAE_Model\('template', F_dim=128"),
    (lambda: dataloader.Dataset_Dance("x", transform=None, mode="train"), InputError, "transform.*'train', frame"),
    (lambda: dataloader.Dataset_Dance("x", None, "val"), InputError, "None.*Dataset_Dance.root, 'train', frame_H"),
])
def test_a_call_of_the_template_is_one_line_that_shows_the_new_call(call, error, words):
    with pytest.raises(error, match=words) as raised:
        call()
    assert len(str(raised.value)) < 320 and "\n" not in str(raised.value)


def test_names_for_notebooks():
    assert VAE_Model.forward is VAE_Model.rollout
    assert all(getattr(modules, name).__name__ == name for name in modules.PUBLIC)
    assert json.loads(json.dumps(vars(parse_trainer(NEEDED))))["given"] == ["DR", "ckpt_path", "save_root"]


def start_as_a_user(monkeypatch, program, *arguments):
    """`python program arguments…`, or `%run`, within this process."""
    monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
    monkeypatch.chdir(ROOT)
    return runpy.run_path(program, run_name="__main__")


def test_a_program_returns_and_leaves_the_process_as_it_was(dance, tmp_path, monkeypatch):
    before = (sys.stdout, sys.stderr, signal.getsignal(signal.SIGINT))
    monkeypatch.setattr(os, "_exit", lambda _: pytest.fail("left without Python's exit"))
    start_as_a_user(monkeypatch, "Trainer.py", "--DR", dance, "--save_root", tmp_path, *TINY, "--num_epoch", 1)
    assert (sys.stdout, sys.stderr, signal.getsignal(signal.SIGINT)) == before and (tmp_path / "best.ckpt").exists()


@pytest.mark.parametrize("program", ["Trainer.py", "Tester.py"])
def test_a_missing_package_is_one_line_before_the_work(monkeypatch, capsys, program):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match="2"):
        start_as_a_user(monkeypatch, program, *NEEDED)
    assert "has no matplotlib: pip install -r requirements.txt" in capsys.readouterr().err


def test_ctrl_c_while_packages_are_imported(tmp_path, monkeypatch):
    code = "import signal, threading\nsignal.pthread_kill(threading.get_ident(), signal.SIGINT)\nraise AssertionError"
    (tmp_path / "slow_to_import.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit, match="130"):
        run_program(start, dict, "slow_to_import")


def test_an_old_python_is_one_line(monkeypatch, capsys):
    for path in (*ROOT.glob("*.py"), *ROOT.glob("scripts/*.py"), ROOT / "modules/__init__.py"):
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))  # else the line would not be reached
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(ROOT / "modules/__init__.py"))
    assert capsys.readouterr().err.startswith("error: Python 3.10 or newer is needed; ")


@pytest.mark.parametrize("owner, name, value, words", [
    (importlib.util, "find_spec", lambda _: None, "expected Python 3.10 or newer with venv"),
    (environment.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1e9), "1.0 GB are free for"),
])
def test_what_the_demo_lacks_is_one_line_before_it_installs(tmp_path, monkeypatch, capsys, owner, name, value, words):
    monkeypatch.setenv("VENV", str(tmp_path / "new/venv"))
    monkeypatch.setattr(subprocess, "call", lambda *_: pytest.fail("it began to install"))
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="2"):
        patch.setattr(owner, name, value)
        environment.make_environment()
    assert words in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_a_line_is_in_the_log_at_once():
    code = "import os\nfrom modules.runtime import run_program\nrun_program(lambda: (print('score'), os._exit(9)))"
    assert run("-c", code).stdout == "score\n"
