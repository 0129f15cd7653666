"""Schedules as tables against values computed by hand."""

import numpy as np
import pytest

from modules.runtime import InputError
from modules.train.schedules import (
    LR_MIN,
    frange_cycle_linear,
    kl_annealing,
    kl_type,
    learning_rate,
    summarize,
    teacher_forcing_ratio,
)


def betas(kind, n, **flags):
    schedule, table = kl_annealing(kind, n, **flags), []
    for _ in range(n):
        table.append(schedule.get_beta())
        schedule.update()
    return table


def test_cyclical_by_hand():
    assert betas("Cyclical", 10, n_cycle=2, ratio=1.0) == pytest.approx([0, 0.25, 0.5, 0.75, 1] * 2)
    assert betas("Cyclical", 12, n_cycle=2, ratio=0.5) == pytest.approx([0, 0.5, 1, 1, 1, 1] * 2)
    uneven = [0, 1 / 3, 2 / 3, 1, 0, 0.5, 1, 0, 0.5, 1]  # 10 steps in 3 cycles: 4 + 3 + 3
    assert betas("Cyclical", 10, n_cycle=3, ratio=1.0) == pytest.approx(uneven)


def test_cyclical_of_the_course_defaults_reaches_both_ends_ten_times():
    table = np.array(betas("Cyclical", 70, n_cycle=10, ratio=1.0))
    assert table == pytest.approx(np.tile(np.arange(7) / 6, 10))


def test_monotonic_by_hand():
    assert betas("Monotonic", 20) == pytest.approx([0, 0.25, 0.5, 0.75] + [1] * 16, abs=0.09)
    assert betas("Monotonic", 20)[:6] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])


def test_none_and_constant():
    assert betas("None", 5) == [0] * 5
    assert betas("Constant", 5, beta_max=0.3) == [0.3] * 5


def test_report_horizon_never_completes_its_cycles():
    """61 epochs stepped over a horizon of 61 x 16: the first of ten ramps reaches 60/97 and no more."""
    schedule = kl_annealing("Cyclical", 61 * 16, 10, 1.0, current=60)
    assert schedule.get_beta() == pytest.approx(60 / 97)


def test_beta_stays_at_its_last_value_after_the_horizon():
    assert kl_annealing("Monotonic", 4, current=100).get_beta() == 1


def test_frange_has_start_stop_and_length():
    table = frange_cycle_linear(9, start=0.2, stop=0.8, n_cycle=3, ratio=1)
    assert len(table) == 9
    assert table == pytest.approx([0.2, 0.5, 0.8] * 3)


@pytest.mark.parametrize("spelling, kind", [
    ("Cyclical", "Cyclical"), ("Cycle", "Cyclical"), ("cyclical", "Cyclical"), ("Monotonic", "Monotonic"),
    ("Linear", "Monotonic"), ("None", "None"), ("none", "None"), ("No", "None"), ("Without", "None"), (None, "None"),
])
def test_spellings(spelling, kind):
    assert kl_type(spelling) == kind


def test_unknown_spelling_is_named():
    with pytest.raises(InputError, match="sinus"):
        kl_type("sinus")


def test_teacher_forcing_by_hand():
    table = [teacher_forcing_ratio(epoch, 1.0, 10, 0.1, "interval") for epoch in range(130)]
    assert table[:10] == [1.0] * 10, "no decay at epoch 0"
    assert table[10:12] == [0.9, 0.9]
    assert table[60] == 0.4
    assert table[99] == 0.1
    assert table[100:] == [0.0] * 30, "never negative"
    start = [teacher_forcing_ratio(epoch, 1.0, 20, 0.05) for epoch in range(99)]
    assert start[:21] == [1.0] * 21 and start[21] == 0.95 and start[39] == 0.05 and start[40:] == [0.0] * 59
    assert summarize(start) == "1 until epoch 20, 0 from epoch 40"


def test_ramps_longer_than_a_cycle_are_cut_off():
    assert frange_cycle_linear(8, 0, 1, 2, 2.0).tolist() == pytest.approx([0, 1 / 7, 2 / 7, 3 / 7] * 2)


def test_learning_rates_by_hand():
    def cosine(step):
        return learning_rate("cosine", 1e-3, 0, step, 101, 0)

    assert cosine(0) == pytest.approx(1e-3)
    assert cosine(50) == pytest.approx((1e-3 + LR_MIN) / 2)
    assert cosine(100) == pytest.approx(LR_MIN)
    assert [learning_rate("multistep", 1.0, epoch, 0, 0, 0) for epoch in range(7)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.1, 0.01, 0.01]
    )
    assert [learning_rate("constant", 1.0, 0, step, 10, 3) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
