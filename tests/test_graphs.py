"""Recorded, compiled and plain calls give the same numbers."""

import shutil

import pytest
import torch
from conftest import SMALL, run_inside

from modules.checkpoint import load_checkpoint
from modules.graphs import WARM_UP, Graphed, compile_boxes
from modules.multiscale import Gaussian_Predictor
from modules.vae import VAE_Model

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")


def test_without_a_gpu_it_is_the_plain_function():
    plain = Graphed(lambda x, y, factor: (x + y) * factor, enabled=False)
    assert plain(torch.tensor(1.0), torch.tensor(2.0), factor=3).item() == 9


@CUDA
def test_a_recorded_function_reads_its_inputs_and_changes_its_state():
    total = torch.zeros(3, device="cuda")
    add = Graphed(lambda x, extra, factor: total.add_(x * factor + (0 if extra is None else extra[0])), enabled=True)
    expected = torch.zeros(3)
    for i in range(2 * WARM_UP + 4):
        x, extra = torch.full((3,), float(i)), [torch.ones(3)] if i % 2 else None
        out = add(x.cuda(), extra if extra is None else [extra[0].cuda()], factor=2)
        expected += 2 * x + (0 if extra is None else 1)
        assert torch.equal(out.cpu(), expected), i
    assert add.enabled and len(add.recordings) == 2


@CUDA
def test_what_cannot_be_recorded_goes_on_plain(capsys):
    read = Graphed(lambda x: torch.tensor(x.sum().item()), enabled=True)
    for i in range(WARM_UP + 3):
        assert read(torch.full((2,), float(i), device="cuda")).item() == 2 * i
    assert not read.enabled and "No CUDA graph" in capsys.readouterr().err


@CUDA
@pytest.mark.parametrize("arch", ["template", "multiscale"])
def test_a_recorded_rollout_equals_a_plain_one(arch):
    torch.manual_seed(0)
    model = VAE_Model(arch, F_dim=16, L_dim=8, N_dim=4, D_out_dim=16).cuda().eval()
    first, poses = torch.rand(2, 3, 8, 16).cuda(), torch.rand(2, 90, 3, 8, 16).cuda()
    noise = torch.randn(2, 89, *model.latent_shape(8, 16)).cuda()
    plain = model.rollout(first, poses, noise=noise).frames  # with gradients: not recorded
    with torch.no_grad():
        recorded = model.rollout(first, poses, noise=noise).frames
    torch.testing.assert_close(recorded, plain, rtol=1e-3, atol=1e-4)


@CUDA
@pytest.mark.parametrize("preset", ["template", "best"])
def test_recorded_training_equals_plain_training(dance, tmp_path, preset, monkeypatch):
    flags = [*SMALL, "--preset", preset, "--precision", "fp32", "--num_epoch", 2, "--epoch_steps", 6, "--batch_size", 4]
    states = []
    for enabled in (True, False):
        if not enabled:
            monkeypatch.setattr("Trainer.Graphed", lambda function, enabled: Graphed(function, False))
        folder = tmp_path / str(enabled)
        result = run_inside("Trainer.py", "--DR", dance, "--save_root", folder, *flags)
        assert result.returncode == 0 and "No CUDA graph" not in result.stderr, result.stderr
        states.append(load_checkpoint(folder / "last.ckpt")["training"]["weights"])
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-2, atol=1e-4, msg=name)


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler here")
@torch.no_grad()
def test_a_compiled_box_gives_the_plain_numbers_and_keeps_its_names():
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"box": Gaussian_Predictor(F_dim=16, D_out_dim=16, N_dim=4, informed=True)})
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    inputs, names = [[torch.rand(2, 16, 4, 8)] for _ in range(2)], list(model.state_dict())
    plain = model["box"](*inputs)
    compile_boxes(model)
    for one, other in zip(model["box"](*inputs), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert list(model.state_dict()) == names


def test_without_a_compiler_one_line_and_plain(monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", broken)
    model = VAE_Model("multiscale", F_dim=16, L_dim=8, N_dim=4, D_out_dim=16)
    compile_boxes(model)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert model.rollout(torch.rand(1, 3, 8, 16), torch.rand(1, 2, 3, 8, 16)).frames.shape == (1, 1, 3, 8, 16)
