"""A run that is killed, stopped or resumed ends with the numbers of one that nobody touched."""

import copy
import csv
import os
import random
import shutil
import signal
import threading

import pytest
import torch
from conftest import SMALL, check_error, run, run_inside

import Trainer as trainer_module
from modules.model.checkpoint import load_checkpoint, model_from_checkpoint, save_checkpoint
from modules.options import parse_trainer
from modules.runtime import InputError
from modules.train.distributed import Ranks
from modules.train.resume import EpochProgress, Start, Stops, claim_folder

# a tiny run with everything that has a state: Muon and AdamW, an average, teacher forcing by coin
TINY = [*SMALL, "--arch", "template", "--batch_size", 2, "--device", "cpu", "--precision", "fp32", "--tfr", 0.5,
        "--warmup_steps", 2, "--val_every", 2, "--per_save", 2, "--ema", 0.5]
EXACT = ("epoch", "loss", "mse", "kl", "beta", "tfr", "lr", "val_psnr")  # the other columns are clock times


def rows(folder):
    with open(folder / "metrics.csv", encoding="utf-8") as file:
        return [[row[name] for name in EXACT] for row in csv.DictReader(file)]


def tensors(value, name=""):
    """Every tensor and number of a nested checkpoint part, by its path."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in tensors(item, f"{name}/{key}").items()}
    if isinstance(value, (list, tuple)):
        return tensors(dict(enumerate(value)), name)
    return {name: value}


def check_equal(one, other):
    """Two run folders hold the same run: checkpoints bit for bit, rows, images."""
    assert rows(one) == rows(other)
    files = {p.relative_to(one) for p in one.rglob("*.*") if p.name != ".lock"}
    assert files == {p.relative_to(other) for p in other.rglob("*.*") if p.name != ".lock"}, "no temporary file is left"
    for file in files:
        if file.suffix == ".ckpt":
            parts = [tensors(load_checkpoint(folder / file)) for folder in (one, other)]
            clock = ("seconds", "_per_second", "save_root")
            parts = [{k: v for k, v in p.items() if not k.endswith(clock)} for p in parts]
            assert parts[0].keys() == parts[1].keys()
            for name, value in parts[0].items():
                same = torch.equal(value, parts[1][name]) if torch.is_tensor(value) else value == parts[1][name]
                assert same, f"{file}: {name}"
        elif file.suffix in (".png", ".gif"):
            assert (one / file).read_bytes() == (other / file).read_bytes(), file


def test_twenty_kills_and_the_result_is_bit_equal(dance, tmp_path):
    flags = ["--DR", dance, *TINY, "--num_epoch", 2, "--epoch_steps", 4, "--save_minutes", 1e-6, "--pictures", "strips"]
    result = run("tests/forked.py", 5, 20, tmp_path, *flags)
    assert result.returncode == 0, result.stderr
    assert {"clock", "half", "fsync", "replace"} <= set(result.stdout.split()), result.stdout
    for folder in tmp_path.glob("killed*"):
        check_equal(tmp_path / "whole", folder)
    assert "after step" in (tmp_path / "log.txt").read_text(), "some runs resumed within an epoch"


@pytest.fixture(scope="module")
def whole(dance, tmp_path_factory):
    """The flags of a run, and its folder when nobody stops it."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    flags = ["--DR", dance, *TINY, "--num_epoch", 2, "--epoch_steps", 4, "--pictures", "none"]
    assert run_inside("Trainer.py", *flags, "--save_root", folder).returncode == 0
    return flags, folder


def signal_at(monkeypatch, owner, name, call, *numbers):
    """This process gets the signals at the beginning of the call-th call of a function. Returns the finished calls."""
    original, begun, finished = getattr(owner, name), [], []

    def function(*arguments, **named):
        begun.append(1)
        for number in numbers if len(begun) == call else ():
            signal.pthread_kill(threading.get_ident(), number)  # os.kill may reach another thread, and later
        result = original(*arguments, **named)
        finished.append(1)
        return result

    monkeypatch.setattr(owner, name, function)
    return finished


TRAINER = trainer_module.Trainer


@pytest.mark.parametrize("owner, name, call, numbers, where, step", [
    (TRAINER, "step", 6, [signal.SIGINT], "in epoch 1 after step 2 of 4", 2),
    (TRAINER, "step", 1, [signal.SIGTERM], "in epoch 0 after step 1 of 4", 1),
    (TRAINER, "step", 4, [signal.SIGHUP, signal.SIGHUP, signal.SIGTERM], "in epoch 0 after step 4 of 4", 4),
    (trainer_module.VAE_Model, "step", 30, [signal.SIGTERM], "in the validation of epoch 1", 4),  # 24 in training
    (trainer_module, "draw_validation", 1, [signal.SIGINT], "in the validation of epoch 1", 4),
], ids=["SIGINT", "SIGTERM", "SIGHUP", "validation", "drawing"])
def test_a_signal_ends_the_run_and_the_same_command_resumes_it(
    whole, tmp_path, monkeypatch, owner, name, call, numbers, where, step
):
    flags, folder = whole
    with monkeypatch.context() as patch:
        finished = signal_at(patch, owner, name, call, *numbers)
        stopped = run_inside("Trainer.py", *flags, "--save_root", tmp_path / "run")
    assert stopped.returncode == 128 + numbers[0], stopped.stderr
    assert f"Stopped by {numbers[0].name} {where}; the same command resumes there." in stopped.stdout
    assert len(finished) == (call if owner is TRAINER else call - 1), "a validation ends at once"
    assert load_checkpoint(tmp_path / "run/last.ckpt")["training"]["within"]["step"] == step
    again = run_inside("Trainer.py", *flags, "--save_root", tmp_path / "run")
    assert again.returncode == 0 and f", after step {step} of 4." in again.stdout
    check_equal(folder, tmp_path / "run")


def test_when_to_save_and_when_to_end(monkeypatch):
    """The clock asks for a save; a signal for a save and the end; a second one for the end at once."""
    now, saves, exits = [100.0], [], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(os, "_exit", exits.append)
    stops = Stops(save_minutes=2, ranks=Ranks())
    for seconds in (119, 2, 119):
        now[0] += seconds
        stops.after_step(lambda: saves.append(now[0]), "here")
    assert saves == [221]
    for number, seconds in ((signal.SIGTERM, 0), (signal.SIGTERM, 0.5), (signal.SIGHUP, 2)):
        now[0] += seconds
        stops.note(number, None)
    assert not exits, "the first, the same event told twice, a closed terminal"
    with pytest.raises(SystemExit, match="143"):
        stops.after_step(lambda: saves.append(now[0]), "here")
    stops.note(signal.SIGTERM, None)
    assert exits == [143] and len(saves) == 2


# where a run begins


@pytest.fixture(scope="module")
def begun(whole, dance, tmp_path_factory):
    """A folder with start.ckpt (of a finished run) and run/, which was started from it and has done 1 of 2 epochs."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copy(whole[1] / "last.ckpt", folder / "start.ckpt")
    flags = ["--DR", dance, *TINY, "--epoch_steps", 2, "--pictures", "none", "--per_save", 1, "--num_epoch", 1]
    started = run_inside("Trainer.py", *flags, "--save_root", folder / "run", "--ckpt_path", folder / "start.ckpt")
    assert started.returncode == 0 and "Starting a new run from the weights of" in started.stdout, started.stderr
    assert load_checkpoint(folder / "run/last.ckpt")["optimizer"]["AdamW"]["state"][0]["step"] == 2, "a new optimizer"
    return folder, [*flags[:-1], 2]


START = [
    # files deleted or cut short first, more flags, the first line that says it, exit code
    ([], [], "Resuming from {}/run/last.ckpt at epoch 1.", 0),
    ([], ["--ckpt_path", "{}/start.ckpt"], "start.ckpt is not used: {}/run/last.ckpt exists", 0),
    ([], ["--ckpt_path", "{}/run/epoch=0.ckpt"], "Resuming from {}/run/epoch=0.ckpt at epoch 1.", 0),
    (["last.ckpt"], ["--ckpt_path", "{}/run/../run/epoch=0.ckpt"], "epoch=0.ckpt at epoch 1.", 0),
    (["last.ckpt"], [], "no last.ckpt to resume from; --ckpt_path {}/run/epoch=0.ckpt resumes there", 2),
    (["cut last.ckpt"], [], "--ckpt_path {}/run/epoch=0.ckpt resumes there", 2),
    (["cut last.ckpt"], ["--ckpt_path", "{}/run/epoch=0.ckpt"], "epoch=0.ckpt at epoch 1.", 0),
    (["best.ckpt"], [], "best.ckpt is gone: from here on the best epoch is chosen among those from 1 on.", 0),
    ([], ["--val_vi_len", 3], "best.ckpt is of other data (60 frames, ", 0),
    ([], ["--ckpt_path", "{}/run/best.ckpt"], "best.ckpt: cannot resume from it", 2),
    ([], ["--ckpt_path", "{}/none.ckpt", "--save_root", "{}/new"], "none.ckpt", 2),
    ([], ["--num_epoch", 1], "all 1 epochs are done; a larger --num_epoch continues the run.", 0),
    ([], ["--num_epoch", 1, "--ckpt_path", "{}/run/last.ckpt"], "another --save_root starts a new run", 2),
    ([], ["--lr", 0.5], "--lr 0.005 -> 0.5, --num_epoch 1 -> 2. It counts", 0),
    ([], ["--seed", 5], "--seed 5: the run in {}/run was started with 0", 2),
    ([], ["--preset", "report"], "--preset report: the run in {}/run was started with best", 2),
    ([], ["--best_by", "psnr"], "--best_by psnr: the run in {}/run was started with bound", 2),
    ([], ["--no-bounded"], "--bounded False: the run in {}/run was started with True", 2),
    ([], ["--F_dim", 32], "--F_dim 32: {}/run/last.ckpt has 16; leave the flag out", 2),
    ([], ["--frame_W", 64], "--frame_W 64: {}/run/last.ckpt has 32", 2),
    ([], ["--arch", "multiscale", "--ckpt_path", "{}/start.ckpt", "--save_root", "{}/new"], "has template", 2),
    ([], ["--test", "--ckpt_path", "{}/run/epoch=0.ckpt"], "epoch 0: validation PSNR", 0),
]


@pytest.mark.parametrize("deleted, more, words, code", START)
def test_where_a_run_begins(begun, tmp_path, monkeypatch, deleted, more, words, code):
    folder, flags = begun
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for name in deleted:
        file = tmp_path / "run" / name.removeprefix("cut ")
        file.write_bytes(file.read_bytes()[:-100]) if name.startswith("cut ") else file.unlink()
    monkeypatch.setattr(TRAINER, "fit", lambda self: None)
    more = [str(word).replace("{}", str(tmp_path)) for word in more]
    result = run_inside("Trainer.py", *flags, "--save_root", tmp_path / "run", *more)
    words = words.replace("{}", str(tmp_path))
    assert result.returncode == code and words in (result.stderr if code else result.stdout), result
    assert not code or check_error(result, words) is None


def test_a_command_that_went_back_to_a_checkpoint_resumes_where_it_stopped(begun, tmp_path, monkeypatch):
    folder, flags = begun
    shutil.copytree(folder / "run", tmp_path / "run")
    earlier, last = str(tmp_path / "run/epoch=0.ckpt"), tmp_path / "run/last.ckpt"
    monkeypatch.setattr(TRAINER, "fit", lambda self: None)
    command = ["Trainer.py", *flags, "--save_root", tmp_path / "run", "--ckpt_path", earlier]
    assert f"Resuming from {earlier}" in run_inside(*command).stdout
    contents = load_checkpoint(last)
    contents["settings"]["ckpt_path"] = earlier  # what the run above would have written
    save_checkpoint(last, contents)
    assert f"Resuming from {last}" in run_inside(*command).stdout


def test_an_epoch_of_another_number_of_steps_resumes_at_the_same_share():
    saved = EpochProgress(6, torch.tensor([2.0, 4.0, 6.0, 2.0]), torch.tensor(0), step=3, seconds=1.0).saved()
    progress = EpochProgress(12, torch.zeros(4), torch.tensor(0))
    progress.restore(saved)
    assert (progress.step, progress.seconds, progress.means()) == (6, 2.0, ([1.0, 2.0, 3.0], 2))


def test_one_process_at_a_time_writes_to_a_folder(whole, tmp_path):
    with claim_folder(tmp_path / "run"):
        check_error(run_inside("Trainer.py", *whole[0], "--save_root", tmp_path / "run"), "another process is writing")
    (tmp_path / "run/.last.ckpt.abc.tmp").touch()
    with claim_folder(tmp_path / "run"):
        assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock"}, "temporary files go"


# numbers that are not finite, damaged files


def break_steps(monkeypatch, broken):
    """The loss of the steps with these numbers, counted over the whole process, is not a number."""
    original, done = trainer_module.frame_loss, []

    def frame_loss(*arguments, **keywords):
        done.append(1)
        loss, mse = original(*arguments, **keywords)
        return loss * (float("nan") if len(done) - 1 in broken else 1.0), mse

    monkeypatch.setattr(trainer_module, "frame_loss", frame_loss)


@pytest.mark.parametrize("optimizer", ["Muon", "AdamW"])
def test_a_step_that_is_not_finite_changes_nothing(dance, tmp_path, monkeypatch, optimizer):
    """Two good steps and two broken ones leave weights and optimizer as the two good ones alone do."""
    flags = ["--DR", dance, *TINY, "--num_epoch", 1, "--lr_schedule", "constant", "--ema", 0, "--optim", optimizer]
    flags += ["--windows", "template", "--pictures", "none"]
    results = [run_inside("Trainer.py", *flags, "--epoch_steps", 2, "--save_root", tmp_path / "2")]
    break_steps(monkeypatch, {2, 3})
    results += [run_inside("Trainer.py", *flags, "--epoch_steps", 4, "--save_root", tmp_path / "4")]
    assert [result.returncode for result in results] == [0, 0], results[1].stderr
    good, skipped = (load_checkpoint(tmp_path / n / "last.ckpt") for n in "24")
    for part in ("state_dict", "optimizer"):
        for name, value in tensors(good[part]).items():
            assert torch.equal(value, tensors(skipped[part])[name]), name
    assert rows(tmp_path / "2")[0][1:4] == rows(tmp_path / "4")[0][1:4], "the means are those of the good steps"
    assert "epoch 0: 2 of 4 steps skipped" in results[1].stdout and "skipped 2" in results[1].stderr


def test_a_step_that_is_not_finite_leaves_the_average_of_the_weights(dance, tmp_path, monkeypatch):
    shares = []
    monkeypatch.setattr(trainer_module, "update_ema", lambda ema, model, share: shares.append(share.item()))
    break_steps(monkeypatch, {1})
    flags = ["--DR", dance, *TINY, "--num_epoch", 1, "--epoch_steps", 3, "--ema", 0.5, "--pictures", "none"]
    assert run_inside("Trainer.py", *flags, "--save_root", tmp_path).returncode == 0
    assert [share > 0 for share in shares] == [True, False, True]


def test_what_breaks_the_weights_stops_the_run_and_the_checkpoint_stays(dance, tmp_path, monkeypatch):
    flags = ["--DR", dance, *TINY, "--optim", "Adam", "--num_epoch", 9, "--save_root", tmp_path, "--pictures", "none"]
    with monkeypatch.context() as patch:
        break_steps(patch, range(3, 1000))
        patch.setattr("modules.train.resume.MAX_BAD_STEPS", 3)
        result = run_inside("Trainer.py", *flags, "--epoch_steps", 2)
        check_error(result, "3 steps in a row", "last.ckpt was not changed", "--lr")
    assert [row[0] for row in rows(tmp_path)] == ["0", "1"], "the streak continues from one epoch to the next"
    before = (tmp_path / "last.ckpt").read_bytes()
    more = ["--epoch_steps", 30, "--lr", 1e9, "--warmup_steps", 0, "--lr_schedule", "constant"]
    check_error(run_inside("Trainer.py", *flags, *more), "last.ckpt was not changed", "--lr")
    assert (tmp_path / "last.ckpt").read_bytes() == before


def places(value):
    """Every place in a nested value: a (container, key) pair."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from places(item)


JUNK = [None, -1, 10**30, float("nan"), float("inf"), "", [], {}, True, 1e300, torch.zeros(0), torch.eye(3).to_sparse(),
        torch.full((2, 2), float("nan")), torch.zeros(3, dtype=torch.complex64), [[[[]]]], {1: {2: {3: 4}}}]


def test_20_damaged_checkpoints_are_refused_in_one_line_or_resumed(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signal_at(patch, TRAINER, "step", 6, signal.SIGTERM)
        assert run_inside("Trainer.py", *whole[0], "--save_root", tmp_path).returncode == 143
    trainer = TRAINER(parse_trainer([*map(str, whole[0]), "--save_root", str(tmp_path)]))
    original, path = torch.load(tmp_path / "last.ckpt", weights_only=True), str(tmp_path / "last.ckpt")
    rng, refused = random.Random(0), 0
    for i in range(20):
        contents = copy.deepcopy(original)
        training = contents["training"]
        few = list(places(training["weights"]))[:5]  # of many that are alike
        rest = places({key: value for key, value in training.items() if key not in ("weights", "averaged")})
        outer = [(part, key) for part in (contents, training) for key in part]
        container, key = rng.choice([*few, *[place for place in rest if place[1] not in training], *outer])
        container[key] = rng.choice(JUNK)
        save_checkpoint(tmp_path / "last.ckpt", contents)
        try:
            loaded = load_checkpoint(path)
            trainer.resume(Start(path, loaded, model_from_checkpoint(loaded, path)[0], True))
        except InputError as error:
            assert path in str(error), (i, key)
            refused += 1
    assert 4 < refused < 20
