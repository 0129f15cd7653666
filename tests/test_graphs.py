"""Recorded and plain calls give the same numbers."""

import pytest
import torch
from conftest import SMALL
from tape import STAND_INS

from modules.graphs import WARM_UP, Graphed
from modules.model.vae import VAE_Model
from modules.options import parse_trainer
from Trainer import Trainer

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")


@pytest.fixture(params=["tape", pytest.param("cuda", marks=CUDA)])
def device(request, monkeypatch):
    """A GPU with its CUDA graphs, and the CPU with a tape in their place."""
    if request.param == "cuda":
        return "cuda"
    for name, stand_in in STAND_INS.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
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
    with torch.no_grad():
        steps = [Graphed(model.step, enabled) for enabled in (False, True)]
        plain, recorded = (model.rollout(first, poses, noise=noise, step=step).frames for step in steps)
    torch.testing.assert_close(recorded, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "flags",
    [
        ["--preset", "template"],
        ["--preset", "template", "--tfr", 0, "--optim", "AdamW", "--kl_anneal_type", "Monotonic"],
        ["--preset", "report", "--tfr", 0.5],
        ["--preset", "best"],
        ["--preset", "best", "--lr_schedule", "cosine", "--warmup_steps", 9],
    ],
    ids=lambda flags: " ".join(map(str, flags)),
)
def test_recorded_training_equals_plain_training(device, dance, tmp_path, flags):
    flags = [*SMALL, *flags, "--precision", "fp32", "--num_epoch", 3, "--epoch_steps", 6, "--batch_size", 4]
    states, flags = [], [*flags, "--DR", dance, "--save_root", tmp_path, "--device", device]
    for recorded in (True, False):
        trainer = Trainer(parse_trainer([*map(str, flags)]))
        update = Graphed(trainer.step, enabled=recorded)
        for epoch in range(3):
            trainer.feed.begin(epoch)
            for step in range(6):
                update(trainer.feed.batch(step))
        assert bool(update.recordings) == recorded and update.enabled == recorded
        states.append(trainer.model.state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-2, atol=1e-4, msg=name)
