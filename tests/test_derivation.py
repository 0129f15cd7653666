"""docs/model.md: the quoted code is in the functions that it names, and the code's numbers are its formulas'."""

import ast
import math
import re

import pytest
import torch
from conftest import ROOT

from modules.model.vae import frame_loss

QUOTES = re.findall(r"^`([\w/.]+)`, `(\w+)`: `(.+)`$", (ROOT / "docs/model.md").read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("path, name, code", QUOTES)
def test_quoted_code_is_in_its_function(path, name, code):
    source = (ROOT / path).read_text(encoding="utf-8")
    functions = [node for node in ast.walk(ast.parse(source)) if getattr(node, "name", None) == name]
    assert any(code in ast.get_source_segment(source, function) for function in functions)


def test_weights_of_the_exact_bound():
    """Section 6: at beta 1 the calibrated loss trades a nat for 2 mse / D of squared error."""
    mse, D = 0.001, 3 * 8 * 16
    frames = torch.full((1, 1, 3, 8, 16), math.sqrt(mse), requires_grad=True)
    kl = torch.tensor([[5.0]], requires_grad=True)
    frame_loss("calibrated", frames, torch.zeros_like(frames), kl, beta=1.0)[0].sum().backward()
    by_mse = frames.grad.sum().item() / (2 * math.sqrt(mse))
    assert kl.grad.item() / by_mse == pytest.approx(2 * mse / D, rel=2e-3), "MSE_FLOOR is a thousandth of this mse"
