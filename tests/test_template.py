"""The course's architecture: names, shapes, and the arithmetic of a template checkpoint."""

import copy

import pytest
import torch
from torch import nn

from modules.model.checkpoint import load_checkpoint, model_from_checkpoint
from modules.model.layers import ImageNorm2d
from modules.model.vae import VAE_Model
from modules.options import parse_trainer
from Trainer import new_model


def conv(name, i, o, k):
    return {f"{name}.weight": (o, i, k, k), f"{name}.bias": (o,)}


def residual(name, i, o):
    shapes = conv(f"{name}.conv1", i, o, 3) | conv(f"{name}.conv2", o, o, 3)
    return shapes | (conv(f"{name}.skip", i, o, 1) if i != o else {})


def depth_block(name, i, o):
    shapes = conv(f"{name}.block.0.conv1.0", i, i, 1) | conv(f"{name}.block.0.conv2", i, o, 1)
    shapes |= {f"{name}.block.0.depth_conv.weight": (i, 1, 3, 3), f"{name}.block.0.depth_conv.bias": (i,)}
    shapes |= conv(f"{name}.block.0.adaptor", i, o, 1) if i != o else {}
    return shapes | conv(f"{name}.block.1.conv", o, 4 * o, 1) | conv(f"{name}.block.1.conv_out", 2 * o, o, 1)


def course_shapes(F=128, L=32, N=12, D=192):
    """Every tensor of the course's model, written down from its description."""
    f, p, g, d, o = "frame_transformation", "label_transformation", "Gaussian_Predictor", "Decoder_Fusion", "Generator"
    n = F + L + N
    parts = [
        residual(f"{f}.0", 3, F // 8), depth_block(f"{f}.1", F // 8, F // 8), residual(f"{f}.2", F // 8, F // 4),
        depth_block(f"{f}.3", F // 4, F // 4), residual(f"{f}.4", F // 4, F // 2),
        depth_block(f"{f}.5", F // 2, F // 2),
        conv(f"{f}.6", F // 2, F, 3),
        conv(f"{p}.1", 3, L // 2, 7),
        {f"{p}.2.{k}": (L // 2,) for k in ("weight", "bias", "running_mean", "running_var")},
        {f"{p}.2.num_batches_tracked": ()}, residual(f"{p}.4", L // 2, L),
        residual(f"{g}.0", F + L, N // 4), depth_block(f"{g}.1", N // 4, N // 4), residual(f"{g}.2", N // 4, N // 2),
        depth_block(f"{g}.3", N // 2, N // 2), residual(f"{g}.4", N // 2, N), conv(f"{g}.6", N, 2 * N, 1),
        depth_block(f"{d}.0", n, n), residual(f"{d}.1", n, n // 4), depth_block(f"{d}.2", n // 4, n // 2),
        residual(f"{d}.3", n // 2, n // 2), depth_block(f"{d}.4", n // 2, D // 2), conv(f"{d}.5", D // 2, D, 1),
        depth_block(f"{o}.0", D, D), residual(f"{o}.1", D, D // 2), depth_block(f"{o}.2", D // 2, D // 2),
        residual(f"{o}.3", D // 2, D // 4), depth_block(f"{o}.4", D // 4, D // 4), residual(f"{o}.5", D // 4, D // 8),
        depth_block(f"{o}.6", D // 8, D // 8), conv(f"{o}.7", D // 8, 3, 1),
    ]
    return {name: shape for part in parts for name, shape in part.items()}


def test_names_and_shapes_are_the_course_templates():
    model = VAE_Model()
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == course_shapes()
    assert len(model.state_dict()) == 209
    assert sum(p.numel() for p in model.parameters()) == 1_585_620
    assert sum(b.numel() for b in model.buffers()) == 33


@pytest.mark.parametrize("preset", ["course", "template", "report"])
def test_presets_for_the_course_leave_its_network_as_it_is(preset):
    state = new_model(parse_trainer(["--preset", preset, "--DR", "data", "--save_root", "run"])).state_dict()
    assert {name: tuple(t.shape) for name, t in state.items()} == course_shapes()


@pytest.fixture(scope="module")
def template_checkpoint(tmp_path_factory):
    """A checkpoint as the template writes it: five keys, and `optimizer` holds the weights."""
    torch.manual_seed(3)
    state = VAE_Model(F_dim=32, L_dim=8, N_dim=8, D_out_dim=32).state_dict()
    state["Generator.7.bias"] += torch.tensor([1.0, 0.0, -1.0])  # frames that leave [0, 1]
    state["label_transformation.2.running_mean"] += 5  # must not be used: the template never leaves training mode
    path = tmp_path_factory.mktemp("template") / "epoch=3.ckpt"
    torch.save({"state_dict": state, "optimizer": state, "lr": 0.001, "tfr": 0.9, "last_epoch": 3}, path)
    return load_checkpoint(path)


def test_template_checkpoint_runs_as_the_template_runs_it(template_checkpoint):
    """Batch statistics of each single pose image, the frame fed back unclipped within [-1, 2], pose t for frame t."""
    model, _ = model_from_checkpoint(template_checkpoint, "x.ckpt")
    reference = copy.deepcopy(model)
    norm = nn.BatchNorm2d(4)
    norm.load_state_dict(model.label_transformation[2].state_dict())
    assert isinstance(model.label_transformation[2], ImageNorm2d)
    reference.label_transformation[2] = norm
    reference.train()  # as the template's overridden eval() leaves it

    first, poses = torch.rand(2, 3, 16, 16), torch.rand(2, 6, 3, 16, 16)
    noise = torch.randn(2, 5, 8, 16, 16)
    model.eval()
    with torch.no_grad():
        frames = model.rollout(first, poses, noise=noise).frames
        for b in range(2):
            last = first[b : b + 1]
            for t in range(1, 6):
                image, label = reference.frame_transformation(last), reference.label_transformation(poses[b : b + 1, t])
                last = reference.Generator(reference.Decoder_Fusion(image, label, noise[b : b + 1, t - 1]))
                torch.testing.assert_close(frames[b, t - 1], last[0], rtol=1e-4, atol=1e-5)
    assert frames.min() < 0 and frames.max() > 1, "else this test could not see a clip"


@pytest.mark.parametrize("batch", [1, 2])
def test_the_gradient_of_one_image_is_that_of_its_batch(batch):
    """A wrong gradient of torch's instance_norm, for a batch of one in channels_last; and features of a nearly white
    image keep their digits, which torch's group_norm loses in channels_last."""
    torch.manual_seed(0)
    norm, x, upstream = ImageNorm2d(4), torch.randn(batch, 4, 8, 16), torch.randn(batch, 4, 8, 16)
    white = (1 + 0.02 * x).to(memory_format=torch.channels_last)
    exact = nn.functional.instance_norm(white.double(), eps=norm.eps)
    torch.testing.assert_close(norm(white).double(), exact, rtol=1e-4, atol=1e-4)
    grads = []
    for layout in (torch.contiguous_format, torch.channels_last):
        norm.zero_grad()
        inputs = x.clone().to(memory_format=layout).requires_grad_()
        norm(inputs).backward(upstream.to(memory_format=layout))
        grads.append([inputs.grad, norm.weight.grad.clone(), norm.bias.grad.clone()])
    for contiguous, channels_last in zip(*grads, strict=True):
        torch.testing.assert_close(channels_last, contiguous)
