"""The comparison of recipes: which runs it starts, how it resumes, what it refuses, and its tables."""

import csv
import shutil

import pytest
import study
from conftest import SMALL, check_error, run_inside

from modules.files import read_json
from modules.options import parse_trainer


def read_table(path):
    return list(csv.reader(path.read_text().splitlines()))


def test_the_study_of_kl_settings(dance, tmp_path, started):
    """Under one protocol, resumed where it stopped; every flag that matters must be the same."""
    root = tmp_path / "s"
    flags = ["kl", "--DR", dance, "--save_root", root, "--preset", "template", "--num_epoch", 1, "--epoch_steps", 1,
             "--device", "cpu", "--pictures", "none", *SMALL]
    first = run_inside("study.py", *flags, "--seeds", 3, 5, "--only", "None", "Constant")
    assert first.returncode == 0, first.stderr
    trained = [parse_trainer(words) for program, words in started if program == "Trainer.py"]
    assert [(args.kl_anneal_type, args.seed) for args in trained] == [
        ("None", 3), ("Constant", 3), ("None", 5), ("Constant", 5)], "seed after seed"
    varied = {"save_root", "kl_anneal_type", "seed"}
    protocols = [{k: v for k, v in vars(args).items() if k not in varied} for args in trained]
    assert all(protocol == protocols[0] for protocol in protocols) and protocols[0]["preset"] == "template"

    head, none, constant = read_table(root / "psnr.csv")
    assert head == ["recipe", "sequence 0", "sequence 1", "average", "nearest pose", "validation", "seeds"]
    assert (none[0], none[-1], constant[0]) == ("None", "2", "Constant")
    psnr = [[s["psnr"] for s in read_json(root / f"None/seed{seed}/test/metrics.json")["sequences"]] for seed in (3, 5)]
    assert none[1] == study.cell([psnr[0][0], psnr[1][0]]) and none[3] == study.cell([sum(p) / 2 for p in psnr])
    assert f"| None | {none[1]} | {none[2]} |" in (root / "psnr.md").read_text()
    latent = read_table(root / "latent.csv")
    assert [row[0] for row in latent[1:]] == ["None", "Constant"] and latent[0][1] == "kl"
    cost = dict(zip(*read_table(root / "cost.csv")[:2], strict=True))
    assert float(cost["training, s"].split()[0]) > 0 and float(cost["prediction, frames/s"].split()[0]) > 0
    assert len(list((root / "curves").glob("*.png"))) == 8

    started.clear()
    shutil.rmtree(root / "Constant/seed5")
    (root / "None/seed3/test/metrics.json").unlink()
    again = run_inside("study.py", *flags, "--seeds", 3, 5, "--only", "None", "Constant")
    assert again.returncode == 0, again.stderr
    assert [(program, words[words.index("--save_root") + 1].split("/s/")[1]) for program, words in started] == [
        ("Tester.py", "None/seed3/test"), ("Trainer.py", "Constant/seed5"), ("Tester.py", "Constant/seed5/test")]

    started.clear()  # all that follows is refused before anything is trained
    for more, words in ((["--lr", 0.5], "--lr 0.001, this study has 0.5"), (["--seed", 1], "--seeds"),
                        (["--kl_anneal_type", "None"], "--kl_anneal_type: the study varies it"),
                        (["--only", "Zero"], "recipes Zero"), (["--recipe", "a b=--lr 1"], "--recipe a b=--lr 1"),
                        (["--recipe", "x=--nonsense 1"], "--nonsense"), (["--kl_beta", 0.5], "--kl_beta")):
        check_error(run_inside("study.py", *flags, "--seeds", 3, *more), words)
    check_error(run_inside("study.py", "own", "--DR", dance, "--save_root", tmp_path / "x"), "--recipe")
    check_error(run_inside("study.py", "latent", "--DR", dance, "--save_root", tmp_path / "x"), "--ckpt_path")
    assert not started

    best = root / "None/seed3/best.ckpt"
    place = ["--DR", dance, "--save_root", tmp_path / "use", "--device", "cpu"]
    result = run_inside("study.py", "latent", "--ckpt_path", best, *place)
    assert result.returncode == 0, result.stderr
    head, row = read_table(tmp_path / "use/latent.csv")
    assert head == latent[0] and row[0] == str(best) and row[3] == "2048"


def test_a_signal_reaches_the_program_that_trains(tmp_path, monkeypatch):
    """It saves and ends, and then the study ends."""
    saved = tmp_path / "saved"
    (tmp_path / "Trainer.py").write_text(
        "import os, signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (open({str(saved)!r}, 'w').close(), sys.exit(143)))\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)\n", encoding="utf-8")
    monkeypatch.setattr(study, "ROOT", tmp_path)
    with pytest.raises(SystemExit) as stop:
        study.call("Trainer.py")
    assert stop.value.code == 143 and saved.exists()


@pytest.mark.parametrize("name", study.STUDIES)
def test_recipes_are_flags_that_the_trainer_takes(name):
    common, recipes = study.STUDIES[name]
    for recipe, flags in (recipes or {"slow": "--lr 1e-4"}).items():
        assert study.parse_recipe(f"{recipe}={flags}") == (recipe, flags)
        parse_trainer(["--DR", "x", "--save_root", "x", *common.split(), *flags.split()])


def test_tables_by_hand():
    assert study.cell([1.0, 2.0, 3.0]) == "2.00 ± 1.00"
    assert study.cell([21.456]) == "21.46", "one seed has no deviation"
    assert study.cell([None, 1.0]) == "" and study.cell([7, 9]) == "8 ± 1"
    table = study.make_table({"a": [{"gain": -0.5, "active": 7}]})
    assert table == [["recipe", "gain", "active", "seeds"], ["a", "-0.50", "7", "1"]]
