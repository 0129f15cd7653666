"""Schedules as tables against values computed by hand."""

import numpy as np
import pytest

from modules.runtime import InputError
from modules.train import schedules


@pytest.mark.parametrize("kind, flags, expected", [
    ("Cyclical", {"n_cycle": 2, "ratio": 1.0}, [0, 0.25, 0.5, 0.75, 1] * 2),
    ("Cyclical", {"n_cycle": 2, "ratio": 0.5}, [0, 0.5, 1, 1, 1, 1] * 2),
    ("Cyclical", {"n_cycle": 3, "ratio": 1.0}, [0, 1 / 3, 2 / 3, 1, 0, 0.5, 1, 0, 0.5, 1]),  # 4 + 3 + 3 steps
    ("Cyclical", {"n_cycle": 10, "ratio": 1.0}, list(np.tile(np.arange(7) / 6, 10))),  # the course's defaults
    ("Monotonic", {}, [0, 0.25, 0.5, 0.75] + [1] * 16),
    ("None", {}, [0] * 5), ("Constant", {"beta_max": 0.3}, [0.3] * 5),
])
def test_beta_by_hand(kind, flags, expected):
    schedule = schedules.kl_annealing(kind, len(expected), **flags)
    for beta in expected:
        assert schedule.get_beta() == pytest.approx(beta, abs=1e-9)
        schedule.update()


def test_ramps_by_hand():
    ramp = schedules.frange_cycle_linear
    assert ramp(9, start=0.2, stop=0.8, n_cycle=3, ratio=1) == pytest.approx([0.2, 0.5, 0.8] * 3)
    assert ramp(8, 0, 1, 2, 2.0) == pytest.approx([0, 1 / 7, 2 / 7, 3 / 7] * 2), "a ramp longer than its cycle"
    # the report's: 61 epochs over a horizon of 61 x 16, so the first of ten ramps reaches 60/97 and no more
    assert schedules.kl_annealing("Cyclical", 61 * 16, 10, 1.0, current=60).get_beta() == pytest.approx(60 / 97)
    assert schedules.kl_annealing("Monotonic", 4, current=100).get_beta() == 1, "after the horizon the last value stays"


def test_spellings_of_kl_types():
    for kind, spellings in (("Cyclical", ["Cyclical", "Cycle", "cyclical"]), ("Monotonic", ["Monotonic", "Linear"]),
                            ("None", ["None", "none", "No", "Without", None])):
        assert {schedules.kl_type(spelling) for spelling in spellings} == {kind}
    with pytest.raises(InputError, match="sinus"):
        schedules.kl_type("sinus")


def test_teacher_forcing_by_hand():
    ratio = schedules.teacher_forcing_ratio
    table = [ratio(epoch, 1.0, 10, 0.1, "interval") for epoch in range(130)]
    assert table[:12] == [1.0] * 10 + [0.9] * 2, "no decay at epoch 0"
    assert (table[60], table[99], table[100:]) == (0.4, 0.1, [0.0] * 30), "never negative"
    start = [ratio(epoch, 1.0, 20, 0.05) for epoch in range(99)]
    assert start[:22] == [1.0] * 21 + [0.95] and start[39] == 0.05 and start[40:] == [0.0] * 59
    assert schedules.summarize(start) == "1 until epoch 20, 0 from epoch 40"


def test_the_share_of_the_moving_average():
    assert schedules.ema_share(0.05, 0, 4000) == pytest.approx(0.9), "the first step replaces random weights"
    assert schedules.ema_share(0.05, 3999, 4000) == pytest.approx(1 / 200), "a twentieth of 4,000 steps"


def test_learning_rates_by_hand():
    rate = schedules.learning_rate
    cosine = [rate("cosine", 1e-3, 0, step, 101, 0) for step in (0, 50, 100)]
    assert cosine == pytest.approx([1e-3, (1e-3 + schedules.LR_MIN) / 2, schedules.LR_MIN])
    multistep = [rate("multistep", 1.0, epoch, 0, 0, 0) for epoch in range(7)]
    assert multistep == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])
    assert [rate("constant", 1.0, 0, step, 10, 3) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
