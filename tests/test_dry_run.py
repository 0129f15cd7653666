"""--dry_run and --tensorboard: what they write, read back."""

import csv
import sys

import numpy as np
import pytest
from conftest import SMALL, run
from PIL import Image

from modules.options import parse_tester, parse_trainer
from modules.runtime import InputError
from modules.show.board import Board
from modules.show.curves import OF_A_RUN
from modules.show.runs import read_history
from modules.train.history import TAGS
from modules.train.schedules import LR_MIN
from Trainer import planned


def table(*flags):
    return planned(parse_trainer(["--save_root", "x", "--dry_run", *map(str, flags)])).table()


def test_dry_run_needs_no_data_and_trains_nothing(tmp_path):
    result = run("Trainer.py", "--save_root", tmp_path, "--preset", "report", "--dry_run", "--num_epoch", 7)
    assert result.returncode == 0, result.stderr
    assert {"--num_epoch 7", "--batch_size 4", "--kl_anneal_type Cyclical", "--DR None"} <= set(
        result.stdout.splitlines()
    )
    assert {path.name for path in tmp_path.iterdir()} == {"dry_run"}
    names = {path.name for path in (tmp_path / "dry_run").iterdir()}
    assert names == {"beta.png", "tfr.png", "posterior_share.png", "lr.png", "schedules.csv"}
    for name in names - {"schedules.csv"}:
        with Image.open(tmp_path / "dry_run" / name) as image:
            ink = np.asarray(image.convert("RGB")).reshape(-1, 3)
        assert (ink == (0, 114, 178)).all(axis=1).sum() > 200, f"{name} shows a line"
    with open(tmp_path / "dry_run/schedules.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == [str(i) for i in range(7)]
    assert [float(row["lr"]) for row in rows] == pytest.approx([1e-4] * 2 + [1e-5] * 3 + [1e-6] * 2)


def test_schedules_by_hand():
    rows = table("--preset", "template", "--num_epoch", 20, "--kl_anneal_cycle", 2, "--kl_anneal_ratio", 0.5)
    assert [row["beta"] for row in rows[:10]] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1])
    assert [row["beta"] for row in rows[10:12]] == [0, 0.25]
    assert [row["tfr"] for row in rows] == [1.0] * 11 + [pytest.approx(1 - 0.1 * n) for n in range(1, 10)]
    every = table("--preset", "report", "--num_epoch", 20)
    assert [row["tfr"] for row in every] == [1.0] * 10 + [0.9] * 10
    assert {row["steps"] for row in rows} == {23410 // 16 // 2}
    fast = table("--preset", "report")
    assert fast[9]["steps"] == int(23410 * 0.4) // 16 // 4 and fast[10]["steps"] == 23410 // 16 // 4
    cosine = table("--lr_schedule", "cosine", "--lr", 0.01, "--num_epoch", 8, "--warmup_steps", 0)
    assert cosine[-1]["lr"] == pytest.approx(LR_MIN)
    assert cosine[3]["lr"] == pytest.approx(0.005, rel=0.01), "half way down after half of the steps"


def test_dry_run_equals_what_training_writes(trained):
    written = read_history(trained[0] / "metrics.csv")
    planned = table("--preset", "template", "--num_epoch", 2, *SMALL)
    for column in ("beta", "tfr", "lr"):
        assert [row[column] for row in planned] == pytest.approx([row[column] for row in written]), column


def test_data_are_still_needed_otherwise():
    for parse in (parse_trainer, parse_tester):
        with pytest.raises(InputError, match="--DR is needed"):
            parse(["--save_root", "x"])


def test_tensorboard_holds_the_scalars_strips_and_curves(dance, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    flags = ["--preset", "template", "--num_epoch", 2, "--val_every", 2, "--device", "cpu", "--tensorboard",
             "--store_visualization"]
    result = run("Trainer.py", "--DR", dance, "--save_root", tmp_path, *SMALL, *flags)
    assert result.returncode == 0, result.stderr
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    history = read_history(tmp_path / "metrics.csv")
    assert set(events.Tags()["scalars"]) == set(TAGS.values())
    for column, tag in TAGS.items():
        expected = {int(row["epoch"]): row[column] for row in history if row[column] is not None}
        assert {event.step: event.value for event in events.Scalars(tag)} == pytest.approx(expected, rel=1e-5), tag
    assert set(events.Tags()["images"]) == {f"curve/{name}" for name in OF_A_RUN} | {"strip/val0"}
    (strip,) = events.Images("strip/val0")
    with Image.open(tmp_path / "figures/val0_epoch=1.png") as image:
        assert (strip.step, strip.width, strip.height) == (1, *image.size)


def test_tensorboard_not_installed_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        Board(tmp_path, TAGS)
