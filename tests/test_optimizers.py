"""Muon: which weights it trains, and that its updates are orthogonal."""

import pytest
import torch
from torch import nn

from modules.model.vae import VAE_Model
from modules.train.optimizers import (
    AUXILIARY_RATE,
    Muon,
    build_optimizers,
    clipped_step,
    orthogonalise,
    update_ema,
)


def test_updates_are_nearly_orthogonal_and_keep_their_directions():
    torch.manual_seed(0)
    for rows, columns in ((12, 40), (40, 12)):
        x = torch.randn(3, rows, columns)
        (y,) = orthogonalise([x], [1.0])
        u, _, v = torch.linalg.svd(x, full_matrices=False)
        values = (u.mT @ y @ v.mT).diagonal(dim1=1, dim2=2)
        assert values.min() > 0.6 and values.max() < 1.3
        off = u.mT @ y @ v.mT - torch.diag_embed(values)
        assert off.abs().max() < 0.01, "the singular vectors stay"


def test_a_gradient_of_few_directions_stays_finite_in_bfloat16():
    """As real gradients are: what rounding adds to the other directions must not grow."""
    torch.manual_seed(0)
    x = torch.randn(2, 48, 3) @ torch.randn(2, 3, 144)
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.linalg.svdvals(orthogonalise([x], [1.0], dtype)[0]).max() < 1.3


def test_muon_trains_matrices_and_adamw_the_rest():
    model = VAE_Model("multiscale", F_dim=16, L_dim=16, N_dim=4, D_out_dim=16, prior="learned")
    muon, adamw = build_optimizers("Muon", model, 0.1, 0.01)
    names = {id(p): name for name, p in model.named_parameters()}
    trained = {names[id(p)] for p in muon.param_groups[0]["params"]}
    assert "Generator.blocks.3.0.conv1.weight" in trained and "frame_transformation.convs.1.weight" in trained
    assert not any(name.startswith(("Gaussian_Predictor", "prior", "Decoder_Fusion")) for name in trained)
    assert "frame_transformation.convs.0.weight" not in trained, "three channels in"
    assert sum(len(group["params"]) for o in (muon, adamw) for group in o.param_groups) == len(names)
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.01, 0.0], "biases are not decayed"
    before = [p.detach().clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert not clipped_step(model, [muon, adamw], torch.tensor([1.0, torch.nan]), torch.tensor(0.5), clip_norm=1.0)
    assert all(map(torch.equal, before, model.parameters())), "a number that is not finite: nothing moves"
    assert muon.param_groups[0]["lr"] == 0.5
    assert adamw.param_groups[0]["lr"].item() == pytest.approx(0.5 * AUXILIARY_RATE)


@torch.no_grad()
def test_a_clip_norm_of_0_clips_nothing_and_an_average_goes_a_share_of_the_way():
    layer, ema = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    layer.weight.grad = torch.full((1, 1), 9.0)
    clipped_step(layer, [], torch.zeros(3), torch.tensor(0.0), clip_norm=0)
    assert layer.weight.grad.item() == 9
    clipped_step(layer, [], torch.zeros(3), torch.tensor(0.0), clip_norm=1)
    assert layer.weight.grad.item() == pytest.approx(1)
    layer.weight.fill_(4.0)
    ema.weight.fill_(0.0)
    update_ema(ema, layer, torch.tensor(0.25))
    assert ema.weight.item() == 1


def test_muon_step_has_its_size_and_a_memory():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(16, 16, 3, 3))
    muon = Muon([weight], 0.01)
    muon.found_inf = torch.tensor(0.0)
    weight.grad = torch.randn_like(weight) * 1e-6
    muon.step()
    expected = 0.01 * 0.2 * 144**0.5 * (16**0.5 / weight.numel() ** 0.5)  # orthogonal rows: root mean square 1/12
    assert 0.7 < weight.square().mean().sqrt() / expected < 1.2, "whatever the gradient's size"
    before = weight.detach().clone()
    weight.grad = torch.zeros_like(weight)
    muon.step()
    assert not torch.equal(weight, before), "momentum moves it without a gradient"
