"""The study of KL annealing: which runs it starts, what it goes on with, and its tables against hand values."""

import csv
import importlib.util
import json
import shutil
import sys

import numpy as np
import pytest
from conftest import ROOT, SMALL, check_error, run

from modules.files import to_csv, to_markdown
from modules.options import parse_tester, parse_trainer
from modules.runtime import InputError

ORDER = [f"{strategy}/seed{seed}" for seed in (3, 5) for strategy in ("Cyclical", "Monotonic", "None")]


def load_script():
    spec = importlib.util.spec_from_file_location("compare_kl", ROOT / "scripts" / "compare_kl.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture()
def study(dance, trained, tmp_path, monkeypatch):
    """Runs scripts/compare_kl.py with programs that copy a finished run; returns a function and the list of calls."""
    script = load_script()
    calls, psnrs = [], iter(20.0 + i for i in range(6))

    def fake(program, *arguments):
        if program == "Trainer.py":
            args = parse_trainer([str(x) for x in arguments])
            shutil.copytree(trained[0], args.save_root, dirs_exist_ok=True)
        else:
            args = parse_tester([str(x) for x in arguments])
            first = next(psnrs)
            scores = [{"name": str(i), "psnr": first + 10 * i, "psnr_per_frame": [first] * 9} for i in range(2)]
            (tmp_path / args.save_root).mkdir()
            (tmp_path / args.save_root / "metrics.json").write_text(json.dumps({"sequences": scores}))
        calls.append((program, args))

    monkeypatch.setattr(script, "call", fake)

    def start(*more):
        flags = ["--DR", dance, "--save_root", tmp_path / "s", "--preset", "template", "--seeds", 3, 5]
        flags += ["--num_epoch", 2, "--device", "cpu", *SMALL, *more]
        monkeypatch.setattr(sys, "argv", ["compare_kl.py", *map(str, flags)])
        script.main()

    return start, calls, tmp_path / "s"


def test_every_strategy_and_seed_under_one_protocol(study):
    start, calls, root = study
    start()
    trainings = [args for program, args in calls if program == "Trainer.py"]
    assert [args.save_root.split("/s/")[1] for args in trainings] == ORDER
    assert [(args.kl_anneal_type, args.seed) for args in trainings[:4]] == [
        ("Cyclical", 3), ("Monotonic", 3), ("None", 3), ("Cyclical", 5)
    ]
    varied = {"save_root", "kl_anneal_type", "seed"}
    protocols = [{k: v for k, v in vars(args).items() if k not in varied} for args in trainings]
    assert all(protocol == protocols[0] for protocol in protocols)
    assert protocols[0]["preset"] == "template" and protocols[0]["num_epoch"] == 2
    tests = [args for program, args in calls if program == "Tester.py"]
    assert [args.ckpt_path for args in tests] == [[f"{args.save_root}/best.ckpt"] for args in trainings]
    assert {args.device for args in tests} == {"cpu"}

    # Cyclical has 20 and 23 dB on sequence 0, 30 and 33 on sequence 1
    rows = list(csv.reader((root / "psnr.csv").read_text().splitlines()))
    assert rows[0] == ["strategy", "sequence 0", "sequence 1", "average", "seeds", "the report's average"]
    assert rows[1] == ["Cyclical", "21.50 ± 2.12", "31.50 ± 2.12", "26.50 ± 2.12", "2", "21.535"]
    assert rows[3] == ["None", "23.50 ± 2.12", "33.50 ± 2.12", "28.50 ± 2.12", "2", "22.648"]
    assert "| Monotonic | 22.50 ± 2.12 | 32.50 ± 2.12 |" in (root / "psnr.md").read_text()
    assert len(list((root / "curves").glob("*.png"))) == 8
    latent = list(csv.reader((root / "latent.csv").read_text().splitlines()))
    assert [row[0] for row in latent[1:]] == ["Cyclical", "Monotonic", "None"]


def test_goes_on_where_it_stopped(study):
    start, calls, root = study
    start()
    calls.clear()
    start()
    assert calls == [], "all is done"
    shutil.rmtree(root / "None/seed5/test")
    lines = (root / "Monotonic/seed3/metrics.csv").read_text().splitlines()
    (root / "Monotonic/seed3/metrics.csv").write_text("\n".join(lines[:-1]))  # one epoch of two
    shutil.rmtree(root / "Monotonic/seed3/test")
    with pytest.raises(StopIteration):  # the fake has given all its scores: only which runs are started counts
        start()
    assert [(program, args.seed) for program, args in calls] == [("Trainer.py", 3)]
    assert calls[0][1].kl_anneal_type == "Monotonic"


def test_other_flags_or_a_varied_flag_are_refused(study, dance, tmp_path):
    start, calls, root = study
    start()
    with pytest.raises(InputError, match="--lr 0.001, this one has 0.5"):
        start("--lr", 0.5)
    check_error(run("scripts/compare_kl.py", "--DR", dance, "--save_root", tmp_path / "x", "--seed", "1"), "--seeds")


def test_tables_by_hand():
    script = load_script()
    mean_and_deviation, study_table = script.mean_and_deviation, script.study_table
    assert mean_and_deviation([1.0, 2.0, 3.0]) == "2.00 ± 1.00"
    assert mean_and_deviation([21.456], 1) == "21.5", "one seed has no deviation"
    rows = study_table({"None": [{"0": 20.0, "1": 22.0}, {"0": 24.0, "1": 30.0}]})
    assert rows[1] == ["None", f"22.00 ± {np.sqrt(8):.2f}", f"26.00 ± {np.sqrt(32):.2f}", f"24.00 ± {np.sqrt(18):.2f}",
                       "2", "22.648"]
    use = {"kl_per_dimension": [0.5, 1.25], "active": 7, "units": 96, "gain": -0.5, "psnr_prior": 30.0,
           "psnr_sample": 28.5, "change_sample": 1.25, "change_truth": 0.678}
    table = script.latent_table({"Cyclical": [use]})
    assert table[1] == ["Cyclical", "1.750", "7", "96", "-0.50", "1.50", "1.25", "0.68", "0.5 1.25"]
    assert to_markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    assert to_csv([["a", "b,c"]]) == 'a,"b,c"\n'
