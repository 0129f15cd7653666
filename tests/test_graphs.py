"""Recorded, compiled and plain calls give the same numbers."""

import shutil

import pytest
import torch
from conftest import SMALL, run_inside
from tape import STAND_INS

from modules.graphs import WARM_UP, Graphed, compile_boxes
from modules.model.checkpoint import load_checkpoint
from modules.model.multiscale import Gaussian_Predictor
from modules.model.vae import VAE_Model

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")


@pytest.fixture(params=["tape", pytest.param("cuda", marks=CUDA)])
def device(request, monkeypatch):
    """A GPU with its CUDA graphs, and the CPU with a tape in their place."""
    if request.param == "cuda":
        return "cuda"
    for name, stand_in in STAND_INS.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    inside = "modules.model.vae.Graphed"
    monkeypatch.setattr(inside, lambda function, enabled: Graphed(function, not torch.is_grad_enabled()))
    monkeypatch.setattr("Trainer.Graphed", lambda function, enabled: Graphed(function, True))
    return "cpu"


def test_without_a_gpu_it_is_the_plain_function():
    plain = Graphed(lambda x, y, factor: (x + y) * factor, enabled=False)
    assert plain(torch.tensor(1.0), torch.tensor(2.0), factor=3).item() == 9


def test_a_recorded_function_reads_its_inputs_and_changes_its_state(device):
    total = torch.zeros(3, device=device)
    calls = []

    def add(x, extra, factor, negative=False):
        calls.append(factor)
        return total.add_((-x if negative else x) * factor + (0 if extra is None else extra[0]))

    graphed, expected = Graphed(add, enabled=True), torch.zeros(3)
    for i in range(3 * (WARM_UP + 3)):
        x, kind = torch.full((3,), float(i)), i % 3
        extra = [torch.ones(3)] if kind == 1 else None
        out = graphed(x.to(device), extra and [extra[0].to(device)], factor=2, negative=kind == 2)
        expected += (-2 if kind == 2 else 2) * x + (1 if extra else 0)
        assert torch.equal(out.cpu(), expected), i
    assert graphed.enabled and len(graphed.recordings) == 3
    assert len(calls) == 3 * (WARM_UP + 1), "from then on it is replayed"


def test_what_cannot_be_recorded_goes_on_plain(device, capsys):
    read = Graphed(lambda x: torch.tensor(x.sum().item()), enabled=True)
    for i in range(WARM_UP + 3):
        assert read(torch.full((2,), float(i), device=device)).item() == 2 * i
    assert not read.enabled and "No CUDA graph" in capsys.readouterr().err


@pytest.mark.parametrize("prior", ["standard", "learned"])
@pytest.mark.parametrize("arch", ["template", "multiscale"])
def test_a_recorded_rollout_equals_a_plain_one(device, arch, prior):
    torch.manual_seed(0)
    model = VAE_Model(arch, F_dim=16, L_dim=8, N_dim=4, D_out_dim=16, prior=prior).to(device).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # some start at zero
    first, poses = torch.rand(2, 3, 8, 16).to(device), torch.rand(2, 90, 3, 8, 16).to(device)
    noise = torch.randn(2, 89, *model.latent_shape(8, 16)).to(device)
    plain = model.rollout(first, poses, noise=noise).frames  # with gradients: not recorded
    with torch.no_grad():
        recorded = model.rollout(first, poses, noise=noise).frames
    torch.testing.assert_close(recorded, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "flags",
    [
        ["--preset", "template"],
        ["--preset", "template", "--tfr", 0, "--optim", "AdamW", "--kl_anneal_type", "Monotonic"],
        ["--preset", "report", "--tfr", 0.5],
        ["--preset", "best"],
        ["--preset", "variety", "--persist", 0, "--lr_schedule", "cosine", "--warmup_steps", 9],
    ],
    ids=lambda flags: " ".join(map(str, flags)),
)
def test_recorded_training_equals_plain_training(device, dance, tmp_path, flags, monkeypatch):
    flags = [*SMALL, *flags, "--precision", "fp32", "--num_epoch", 3, "--epoch_steps", 6, "--batch_size", 4]
    states, plain = [], lambda function, enabled: Graphed(function, False)
    for recorded in (True, False):
        if not recorded:
            monkeypatch.setattr("Trainer.Graphed", plain)
            monkeypatch.setattr("modules.model.vae.Graphed", plain)
        folder = tmp_path / str(recorded)
        result = run_inside("Trainer.py", "--DR", dance, "--save_root", folder, "--device", device, *flags)
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
