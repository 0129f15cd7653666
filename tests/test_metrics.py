"""PSNR against hand values and the two published definitions."""

import math

import pytest
import torch

from modules.model.vae import MSE_FLOOR, frame_loss
from modules.score.metrics import psnr, psnr_2023, psnr_kaggle, score


def flat(*values):
    return torch.stack([torch.full((3, 2, 4), value) for value in values])


def test_psnr_by_hand():
    assert psnr(flat(0.5), flat(0.6)).item() == pytest.approx(20.0, abs=1e-4)
    assert psnr(flat(0.5), flat(0.51)).item() == pytest.approx(40.0, abs=1e-3)
    assert psnr(flat(0.0), flat(1.0)).item() == pytest.approx(0.0)
    assert psnr(flat(0.5), flat(0.5)).item() == math.inf


def test_psnr_averages_over_frames_not_over_errors():
    scores = psnr(flat(0.5, 0.5), flat(0.6, 0.51))
    assert scores.mean().item() == pytest.approx(30.0, abs=1e-3)


def test_predictions_are_clipped_before_scoring():
    assert psnr(flat(1.5, -3.0), flat(1.0, 0.1)).tolist() == pytest.approx([math.inf, 20.0])


def test_uint8_and_float_agree():
    frames = torch.randint(0, 256, (4, 3, 2, 4), dtype=torch.uint8)
    other = torch.randint(0, 256, (4, 3, 2, 4), dtype=torch.uint8)
    torch.testing.assert_close(psnr(frames, other), psnr(frames / 255, other / 255))


def test_2023_divides_629_frames_by_628():
    assert psnr_2023(torch.full((629,), 30.0)) == pytest.approx(30 * 629 / 628)


def test_kaggle_scores_8_bit_frames_1_to_600():
    truth = [torch.zeros(630, 3, 2, 4) for _ in range(5)]
    predicted = [torch.full((630, 3, 2, 4), level / 255) for level in (1, 1, 1, 2, 4)]
    for frames in predicted:
        frames[0], frames[601:] = 1.0, 1.0  # must not be scored
    scores = psnr_kaggle(predicted, truth)
    decibel = [-20 * math.log10(level / 255) for level in (1, 1, 1, 2, 4)]
    assert scores["public"] == pytest.approx(sum(decibel[:3]) / 3)
    assert scores["private"] == pytest.approx(sum(decibel[3:]) / 2)


def test_a_perfect_frame_counts_as_100_and_the_given_one_not_at_all():
    truth = flat(0.2, 0.5, 0.5)
    assert score(flat(0.9, 0.6, 0.5)[None], truth)[0].tolist() == pytest.approx([20.0, 100.0], abs=1e-4)


def test_losses_by_hand():
    frames, target, kl = flat(0.5)[None], flat(0.6)[None], torch.tensor([[3.0]])
    assert frame_loss("mse", frames, target, kl, 0.5).item() == pytest.approx(0.01 + 1.5)
    expected = (12 * math.log(0.01 + MSE_FLOOR) + 0.5 * 3) / 12  # (D/2 log mse + beta KL) in units of D/2
    assert frame_loss("calibrated", frames, target, kl, 0.5).item() == pytest.approx(expected, abs=1e-5)
