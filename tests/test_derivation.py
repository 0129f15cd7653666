"""docs/derivation.md: the quoted code is there, and its formulas hold in numbers."""

import math
import re

import pytest
import torch
from conftest import ROOT

from modules.model.layers import gaussian_kl, reparameterise
from modules.model.vae import frame_loss

QUOTES = re.findall(r"^`([\w/.]+)`: `(.+)`$", (ROOT / "docs/derivation.md").read_text(encoding="utf-8"), re.M)


def test_every_step_names_its_code():
    assert len(QUOTES) == 10


@pytest.mark.parametrize("path, code", QUOTES)
def test_quoted_lines_are_there(path, code):
    assert (ROOT / path).read_text(encoding="utf-8").count(code) == 1


def test_closed_form_kl_is_the_expectation():
    """Equation 4 against E_q[log q - log p] over two million draws."""
    mu, logvar, m, prior_logvar = (torch.tensor(value) for value in (0.7, -1.2, -0.4, 0.5))
    z = reparameterise(mu, logvar, torch.randn(2_000_000, generator=torch.Generator().manual_seed(0)))
    q = torch.distributions.Normal(mu, (0.5 * logvar).exp())
    p = torch.distributions.Normal(m, (0.5 * prior_logvar).exp())
    expected = (q.log_prob(z) - p.log_prob(z)).mean().item()
    assert gaussian_kl(mu, logvar, m, prior_logvar).item() == pytest.approx(expected, abs=5e-3)


def test_gradient_through_the_sample():
    """Equation 5: the gradients by mu and logvar of f(z) = z^3."""
    mu, logvar = torch.tensor(0.3, requires_grad=True), torch.tensor(-0.5, requires_grad=True)
    noise = torch.tensor(1.7)
    z = reparameterise(mu, logvar, noise)
    (z**3).backward()
    slope = 3 * z.item() ** 2
    assert mu.grad.item() == pytest.approx(slope, rel=1e-5)
    assert logvar.grad.item() == pytest.approx(slope * 0.5 * math.exp(-0.25) * 1.7, rel=1e-5)


def test_weights_of_the_exact_bound():
    """Section 6: at the best variance both objectives have the same trade between mse and KL."""
    D, mse = 3 * 32 * 64, torch.tensor([0.001], requires_grad=True)
    kl = torch.tensor([5.0], requires_grad=True)
    frame_loss("calibrated", mse, kl, 1.0, D).sum().backward()
    ratio = (kl.grad / mse.grad).item()
    assert ratio == pytest.approx(2 * 0.001 / D, rel=2e-3), "MSE_FLOOR is a thousandth of this mse"
    assert pytest.approx(3.3e-7, rel=0.02) == 2 * 0.001 / D
    assert math.sqrt(D / 2) == pytest.approx(55, abs=0.5), "the standard deviation that beta = 1 stands for"


def test_best_variance_gives_equation_3():
    D, mse = 6144, 0.001
    variances = torch.logspace(-5, 0, 20001, dtype=torch.float64)
    nll = D / 2 * torch.log(2 * math.pi * variances) + D / (2 * variances) * mse
    assert variances[nll.argmin()].item() == pytest.approx(mse, rel=1e-3)
    assert nll.min().item() == pytest.approx(D / 2 * (math.log(mse) + 1 + math.log(2 * math.pi)), rel=1e-6)
