"""What people type, and what shells, clusters and drives do to both programs: docs/reliability.md names each kind."""

import argparse
import csv
import errno
import fcntl
import os
import shutil
import signal
import sys
import time

import pytest
import torch
from conftest import SMALL, check_error, run_inside, write_numbered

import modules.data.image_cache as image_cache
import modules.options as options
import Tester
import Trainer
from modules.data.sequence import Sequence
from modules.files import lock_file
from modules.model.checkpoint import load_checkpoint, model_from_checkpoint
from modules.options import (
    COURSE_TESTER,
    COURSE_TRAINER,
    parse_tester,
    parse_trainer,
    trainer_parser,
)
from modules.runtime import InputError, run_program
from modules.train.distributed import is_launched, join
from modules.train.resume import find_start

NEEDED = ["--DR", "data", "--save_root", "run", "--ckpt_path", "a.ckpt"]
PARSERS = {"Trainer.py": (parse_trainer, trainer_parser, COURSE_TRAINER),
           "Tester.py": (parse_tester, options.tester_parser, COURSE_TESTER)}
BOTH = pytest.mark.parametrize("program", PARSERS)


@pytest.fixture(scope="module")
def flags(dance):
    """A run of one epoch of two steps, without pictures."""
    return ["--DR", dance, *SMALL, "--preset", "template", "--device", "cpu", "--precision", "fp32",
            "--num_epoch", 1, "--epoch_steps", 2, "--pictures", "none"]


def epochs(folder):
    with open(folder / "metrics.csv", encoding="utf-8") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


# A: values of the template


@BOTH
@pytest.mark.parametrize("flag, value, read", [
    ("num_workers", "0", 0), ("gpu", "0", 0), ("device", "cuda:3", "cuda:3"), ("device", "CPU", "cpu"),
    ("kl_anneal_ratio", "1.25", 1.25), ("kl_anneal_ratio", "2", 2), ("tfr_sde", "0", 0), ("optim", "adam", "Adam"),
    ("optim", "ADAMW", "AdamW"), ("kl_anneal_type", "cyclical", "Cyclical"), ("kl_anneal_type", "Without", "None"),
    ("fast_train_epoch", "0", 0), ("tfr_d_step", "0", 0), ("tfr", "0", 0), ("partial", "1", 1), ("lr", "1e-3", 1e-3),
])
def test_every_value_of_the_template_is_taken(program, flag, value, read):
    assert getattr(PARSERS[program][0]([*NEEDED, f"--{flag}", value]), flag) == read


@pytest.mark.parametrize("program", PARSERS)
@pytest.mark.parametrize("wrong, words", [
    (["--num_workers", "-1"], "--num_workers"), (["--num_workers", "four"], "'four'"),
    (["--device", "cuda:x"], "cuda:N"), (["--device", "cuda:²"], "cuda:N"), (["--device", "gpu"], "cuda:N"),
    (["--optim", "SGD"], "SGD"), (["--kl_anneal_type", "sinus"], "Cyclical, Monotonic"), (["--num"], "--num"),
    (["--epochs", "3"], "--epochs"), (["--lr"], "--lr"), (["--lr", "nan"], "--lr"), (["--tfr", "1.5"], "[0, 1]"),
    (["--batch_size", "0"], "--batch_size"), (["--save_root", ""], "--save_root"), (["--seed", "1", "3"], "3"),
])
def test_an_error_in_a_flag_is_one_line(program, wrong, words):
    result = run_inside(program, *NEEDED, *wrong)
    check_error(result, words)
    assert len(result.stderr.splitlines()) == 1


@BOTH
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_one_line_before_any_data(program, trained, tmp_path):
    paths = ["--DR", tmp_path, "--save_root", tmp_path, "--ckpt_path", trained[0] / "best.ckpt"]
    check_error(run_inside(program, *paths, "--device", "cuda:3"), "--device cuda:3", "--device cpu")


@pytest.mark.parametrize("values", [["--num_workers", 0, "--gpu", 0, "--tfr_sde", 0, "--optim", "adam",
                                     "--kl_anneal_ratio", 1.25]])
def test_they_train(flags, tmp_path, values):
    result = run_inside("Trainer.py", *flags, "--save_root", tmp_path, *values)
    assert result.returncode == 0, result.stderr


# B: the rules of teacher forcing


def plan(*flags):
    """A run's schedules in words."""
    words = ["--save_root", "x", "--dry_run", "--num_epoch", 99, "--tfr_sde", 20, "--tfr_d_step", 0.05, *flags]
    return Trainer.planned(parse_trainer([*map(str, words)])).describe()


def test_the_template_and_the_report_have_their_own_rules_of_teacher_forcing():
    template = plan("--preset", "template")
    assert "tfr (teacher forcing ratio): 1 until epoch 20, 0 from epoch 40." in template
    assert "1 until epoch 19, 0.8 from epoch 80" in plan("--preset", "report")
    assert plan("--preset", "template", "--tfr_rule", "interval") != template
    assert plan("--preset", "report", "--tfr_rule", "start").splitlines()[1] == template.splitlines()[1]


@BOTH
def test_flags_of_the_template_that_do_nothing_are_named(program, dance, trained, tmp_path):
    paths = ["--DR", dance, "--save_root", tmp_path, "--ckpt_path", trained[0] / "best.ckpt", "--device", "cpu",
             "--pictures", "none"]
    extra = ["--tfr_sde", 20, *(["--num_epoch", 1, "--epoch_steps", 1] if program == "Trainer.py" else [])]
    result = run_inside(program, *paths, *extra, *(["--no_baselines"] if program == "Tester.py" else []))
    assert result.returncode == 0, result.stderr
    assert "--tfr_sde" in result.stdout + result.stderr


def test_a_run_says_first_what_it_will_do(trained):
    before = trained[1].stdout.partition("epoch 0")[0]
    for words in ("tfr (teacher forcing ratio):", "beta (weight of the KL", "lr (learning rate", "2 epochs",
                  "parameters", "train: ", "val: ", str(trained[0])):
        assert words in before, words


# C: prefixes


@BOTH
def test_every_prefix_that_is_unique_among_the_templates_flags_is_that_flag(program):
    _, make, course = PARSERS[program]
    parser, tried = make(), 0
    parser._defaults.clear()
    values = {a.dest: [] if a.nargs == 0 else [str(a.choices[0]) if a.choices else "1"] for a in parser._actions}
    values |= {"device": ["cpu"], "kl_anneal_type": ["None"],
               **dict.fromkeys(("train_vi_len", "val_vi_len"), ["2"])}
    for action in parser._actions:
        action.default, action.required = argparse.SUPPRESS, False
    for name in sorted(course):
        for end in range(1, len(name) + 1):
            prefix = name[:end]
            if sum(other.startswith(prefix) for other in course) == 1 or prefix == name:
                for words in ([f"--{prefix}", *values[name]], ["=".join([f"--{prefix}", *values[name]])]):
                    given = vars(parser.parse_args(words))
                    assert set(given) == {name}, prefix
                    tried += 1
    assert tried > 300, "both spellings of every prefix"


# J, K: what can be decided before any picture is decoded


@pytest.mark.parametrize("extra, words", [
    (["--fast_train"], ["--fast_partial", "10 frames", "--train_vi_len 16"]),
    (["--fast_train", "--fast_train_epoch", 1, "--fast_partial", 0.01], ["--fast_partial", "--train_vi_len 16"]),
    (["--partial", 0.5], ["--partial 0.5", "--train_vi_len 16"]),
    (["--train_vi_len", 25], ["24 frames", "--train_vi_len 25"]),
    (["--arch", "multiscale", "--frame_H", 33, "--frame_W", 65], ["33", "65"]),
])
def test_nothing_is_decoded_for_a_run_that_cannot_be(tmp_path, extra, words):
    for mode in ("train", "val"):
        write_numbered(tmp_path / "data", mode, range(24))
    paths = ["--DR", tmp_path / "data", "--save_root", tmp_path / "run", "--cache_dir", tmp_path / "cache"]
    result = run_inside("Trainer.py", *paths, "--preset", "template", "--device", "cpu", *extra)
    check_error(result, *words)
    assert not (tmp_path / "cache").exists()


def test_the_tester_decides_before_it_decodes(dance, trained, tmp_path):
    paths = ["--DR", dance, "--save_root", tmp_path / "test", "--cache_dir", tmp_path / "cache"]
    checkpoint = ["--ckpt_path", trained[0] / "best.ckpt"]
    for wrong in (["--ckpt_path", tmp_path / "no.ckpt"], [*checkpoint, "--gt", tmp_path / "no_truth"]):
        check_error(run_inside("Tester.py", *paths, *wrong), wrong[-1])
        assert not (tmp_path / "cache").exists()


def test_what_training_ends_with_is_looked_at_first(flags, dance, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    check_error(run_inside("Trainer.py", *flags, "--save_root", tmp_path, "--tensorboard"), "pip install tensorboard")
    (tmp_path / "file").touch()
    paths = ["--DR", dance, "--ckpt_path", trained[0] / "best.ckpt", "--cache_dir", tmp_path / "cache"]
    for program in PARSERS:
        check_error(run_inside(program, *paths, "--save_root", tmp_path / "file"), "file", "cannot be written to")
    assert not (tmp_path / "cache").exists()


# N: drives without locks


def test_on_a_drive_without_locks_and_syncing_both_programs_go_on(flags, dance, tmp_path, monkeypatch):
    reasons = iter([errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, *[errno.EIO] * 99])

    def flock(*_):
        number = next(reasons)
        raise OSError(number, os.strerror(number))

    def fsync(_):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(os, "fsync", fsync)
    trained = run_inside("Trainer.py", *flags, "--save_root", tmp_path / "run", "--cache_dir", tmp_path / "a")
    assert trained.returncode == 0 and "no locks on this drive" in trained.stderr, trained.stderr
    paths = ["--save_root", tmp_path / "test", "--ckpt_path", tmp_path / "run/best.ckpt", "--cache_dir", tmp_path / "b"]
    tested = run_inside("Tester.py", "--DR", dance, *paths, "--no_baselines", "--pictures", "none")
    assert tested.returncode == 0 and "no locks on this drive" in tested.stderr, tested.stderr


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_lock_that_was_left_behind_on_such_a_drive_holds_nobody_off(tmp_path, monkeypatch, capsys, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    (tmp_path / ".lock").touch()  # by a run on another machine, or before the folder was moved here
    monkeypatch.setattr(fcntl, "flock", flock)
    with lock_file(tmp_path / ".lock"), lock_file(tmp_path / ".lock", wait=True):
        assert "no locks on this drive" in capsys.readouterr().err


# Q: output that goes away


def gone(kind):
    """A stream that nobody reads."""
    if kind == "closed before the start":
        return None
    reading, writing = os.pipe()
    os.close(reading)
    stream = open(writing, "w", buffering=1, encoding="utf-8")  # noqa: SIM115
    if kind == "closed since":
        stream.close()
    return stream


@pytest.mark.parametrize("kind", ["a pipe", "closed before the start", "closed since"])
def test_output_that_goes_away_ends_nothing(flags, dance, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(sys, "stdout", gone(kind))
    monkeypatch.setattr(sys, "stderr", gone(kind))
    monkeypatch.setattr(sys, "argv", ["Trainer.py", *map(str, flags), "--save_root", str(tmp_path / "run")])
    run_program(Trainer.main)
    assert {"metrics.csv", "best.ckpt", "last.ckpt"} <= {path.name for path in (tmp_path / "run").iterdir()}
    words = ["--DR", dance, "--save_root", tmp_path / "test", "--ckpt_path", tmp_path / "run/best.ckpt"]
    monkeypatch.setattr(sys, "argv", ["Tester.py", *map(str, words), "--no_baselines", "--pictures", "none"])
    if kind == "a pipe":
        run_program(Tester.main)
        assert (tmp_path / "test/metrics.json").exists()


# R: signals


def send(monkeypatch, *numbers):
    """The process gets these signals while it computes its first step."""
    original, waiting = Trainer.Trainer.step, list(numbers)

    def step(self, *arguments):
        while waiting:
            os.kill(os.getpid(), waiting.pop(0))
        return original(self, *arguments)

    monkeypatch.setattr(Trainer.Trainer, "step", step)


@pytest.mark.parametrize("numbers", [
    [signal.SIGHUP, signal.SIGHUP, signal.SIGCONT], [signal.SIGHUP, signal.SIGTERM], [signal.SIGQUIT],
    [signal.SIGUSR1], [signal.SIGUSR2, signal.SIGTERM], [signal.SIGXCPU], [signal.SIGALRM],
], ids=str)
def test_every_signal_to_end_saves(flags, tmp_path, monkeypatch, numbers):
    send(monkeypatch, *numbers)
    result = run_inside("Trainer.py", *flags, "--save_root", tmp_path)
    assert result.returncode == 128 + numbers[0]
    assert f"Stopped by {numbers[0].name}" in result.stdout
    assert load_checkpoint(tmp_path / "last.ckpt")["training"]["within"]["step"] == 1


def test_under_nohup_a_closed_terminal_is_nothing(flags, tmp_path, monkeypatch):
    send(monkeypatch, signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_inside("Trainer.py", *flags, "--save_root", tmp_path).returncode == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_while_pictures_are_decoded_keeps_those(dance, tmp_path, monkeypatch, number):
    original, read = image_cache.read_image, []

    def interrupted(*arguments):
        read.append(1)
        if len(read) == 30:
            time.sleep(0.2)  # until those before are written
            os.kill(os.getpid(), number)
        return original(*arguments)

    monkeypatch.setattr(image_cache, "read_image", interrupted)
    paths = ["--DR", dance, "--save_root", tmp_path / "run", "--cache_dir", tmp_path / "cache", "--num_workers", 1]
    result = run_inside("Trainer.py", *paths, *SMALL, "--device", "cpu", "--preset", "template")
    assert result.returncode == 128 + number
    assert [*(tmp_path / "cache").glob("*.kept")] and not [*(tmp_path / "cache").glob("*.tmp")]


# S: --overwrite


def test_overwrite_moves_what_is_the_programs_and_nothing_else(flags, trained, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    (run / "figures/mine.txt").write_text("mine", encoding="utf-8")
    (run / "notes.md").write_text("mine", encoding="utf-8")
    (run / "data").mkdir()
    monkeypatch.chdir(run)
    result = run_inside("Trainer.py", *flags, "--save_root", ".", "--overwrite")
    assert result.returncode == 0, result.stderr
    assert (run / "figures/mine.txt").exists() and (run / "notes.md").exists() and (run / "data").is_dir()
    assert epochs(run) == [0] and epochs(tmp_path / "run.old1") == [0, 1]
    assert not [*(tmp_path / "run.old1").rglob("mine.txt")]
    check_error(run_inside("Trainer.py", *flags, "--save_root", " ", "--overwrite"), "--save_root", "empty name")


# T: a cluster's variables


@pytest.mark.parametrize("variables, words", [
    ({"WORLD_SIZE": "4"}, ["RANK", "MASTER_ADDR", "trains alone"]),
    ({"WORLD_SIZE": "x"}, ["WORLD_SIZE=x", "trains alone"]),
    ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, ["MASTER_ADDR, MASTER_PORT is not"]),
    ({"RANK": "3", "LOCAL_RANK": "3", "MASTER_ADDR": "n1"}, []),
    ({"WORLD_SIZE": "1", "RANK": "0"}, []), ({"WORLD_SIZE": ""}, []),
])
def test_half_of_a_clusters_variables_are_not_believed(monkeypatch, capsys, variables, words):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not is_launched()
    said = capsys.readouterr().err
    assert all(word in said for word in words) and bool(said) == bool(words)
    with join("cpu") as ranks:
        assert (ranks.rank, ranks.size) == (0, 1)
    assert not capsys.readouterr().err, "said once"


@pytest.mark.parametrize("name, value", [("WORLD_SIZE", "x"), ("WORLD_SIZE", "-2"), ("RANK", "a"), ("RANK", "2"),
                                         ("MASTER_PORT", "99999"), ("LOCAL_RANK", "²")])
def test_wrong_variables_are_one_line(flags, tmp_path, monkeypatch, name, value):
    whole = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for key, right in (whole | {name: value}).items():
        monkeypatch.setenv(key, right)
    check_error(run_inside("Trainer.py", *flags, "--save_root", tmp_path), f"{name}={value}", "torchrun")


# U, V: going on, and starting from weights


@pytest.fixture(scope="module")
def started(flags, trained, tmp_path_factory):
    """A run that was started from another run's finished checkpoint `start.ckpt`: its folder's parent, its result."""
    folder = tmp_path_factory.mktemp("started")
    shutil.copy(trained[0] / "last.ckpt", folder / "start.ckpt")
    before = os.getcwd()
    os.chdir(folder)
    try:
        return folder, run_inside("Trainer.py", *flags, "--save_root", "run", "--ckpt_path", "start.ckpt")
    finally:
        os.chdir(before)


def test_from_a_finished_checkpoint_a_new_run_begins_at_epoch_0(started):
    folder, result = started
    assert result.returncode == 0, result.stderr
    assert "Starting a new run from the weights of start.ckpt" in result.stdout
    assert epochs(folder / "run") == [0]
    last = load_checkpoint(folder / "run/last.ckpt")
    assert last["last_epoch"] == 0
    assert last["optimizer"]["Adam"]["state"][0]["step"] == 2, "a new optimizer"


def where(flags, *more):
    """Where a command line begins: the source, and whether it goes on."""
    start = find_start(parse_trainer([*map(str, flags), *map(str, more)]))[1]
    return str(start.source), start.goes_on


def test_a_run_is_told_by_what_its_start_is_not_by_how_its_path_is_spelled(started, flags, monkeypatch, tmp_path):
    folder = started[0]
    monkeypatch.chdir(folder)
    flags = [*flags, "--num_epoch", 2, "--save_root", "run"]
    shutil.copy("start.ckpt", tmp_path / "moved.ckpt")
    os.symlink("start.ckpt", tmp_path / "link.ckpt")
    shutil.copy("start.ckpt", tmp_path / "start.ckpt")
    for path in ("start.ckpt", "./start.ckpt", "run/../start.ckpt", folder / "start.ckpt", tmp_path / "moved.ckpt",
                 tmp_path / "link.ckpt", tmp_path / "gone.ckpt"):
        assert where(flags, "--ckpt_path", path) == ("run/last.ckpt", True), path
    with pytest.raises(InputError, match="started from other weights"):
        where(flags, "--ckpt_path", write_other(folder / "run/best.ckpt", tmp_path / "other.ckpt"))


def write_other(source, path):
    """A checkpoint of other bytes outside the run."""
    contents = load_checkpoint(source)
    torch.save(contents | {"lr": 0.5}, path)
    return path


def test_the_templates_way_to_go_on_is_kept(started, flags, monkeypatch, tmp_path):
    monkeypatch.chdir(started[0])
    longer = [*flags, "--num_epoch", 2, "--save_root", "run"]
    for path in ("run/last.ckpt", "run/best.ckpt", "run/epoch=0.ckpt", "./run/last.ckpt", started[0] / "run/last.ckpt"):
        assert where(longer, "--ckpt_path", path) == ("run/last.ckpt", True)
    other = [*flags, "--save_root", tmp_path, "--ckpt_path", "run/last.ckpt"]
    assert where(other) == ("run/last.ckpt", False), "a finished run gives its weights"
    assert where(other, "--num_epoch", 2) == ("run/last.ckpt", True), "the same flags, and epochs left"
    assert where(other, "--num_epoch", 2, "--lr", 0.5) == ("run/last.ckpt", False)


def test_a_run_that_trains_nothing_though_asked_to_is_no_success(started, flags, monkeypatch):
    monkeypatch.chdir(started[0])
    flags = [*flags, "--save_root", "run"]
    for path in ("run/last.ckpt", "./run/last.ckpt", started[0] / "run/epoch=0.ckpt"):
        check_error(run_inside("Trainer.py", *flags, "--ckpt_path", path), "all 1 epochs are done", "--num_epoch")
    for again in ([], ["--ckpt_path", "./start.ckpt"]):
        assert run_inside("Trainer.py", *flags, *again).returncode == 0, "the same command again finds all done"


# W: sequences of unequal lengths


def test_time_and_memory_follow_the_sum_of_the_lengths(trained):
    model, (height, width) = model_from_checkpoint(load_checkpoint(trained[0] / "best.ckpt"), "best.ckpt")
    generator = torch.Generator().manual_seed(0)

    def film(length, name):
        pictures = torch.randint(0, 256, (length, 3, height, width), dtype=torch.uint8, generator=generator)
        return Sequence(name, pictures[:1], pictures)

    sequences = [film(60, "long"), *(film(3, str(i)) for i in range(10))]
    rows = []
    model.Generator.register_forward_hook(lambda _, inputs, out: rows.append(len(out)))
    together = Trainer.predict(model, sequences, torch.float32)
    assert len(rows) == 59 and sum(rows) == 59 + 10 * 2
    for sequence, frames in zip(sequences, together, strict=True):
        alone = Trainer.predict(model, [sequence], torch.float32)[0]
        torch.testing.assert_close(frames, alone, rtol=1e-4, atol=1e-4)


# X: films of many sequences


def test_an_epoch_is_saved_before_its_pictures_are_drawn_and_films_are_few(flags, tmp_path, monkeypatch):
    def die(*_, **__):
        raise SystemExit(9)

    flags = [*flags, "--save_root", tmp_path, "--val_vi_len", 2, "--pictures", "all"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "draw_validation", die)
        assert run_inside("Trainer.py", *flags).returncode == 9
    assert epochs(tmp_path) == [0] and load_checkpoint(tmp_path / "last.ckpt")["last_epoch"] == 0
    assert not (tmp_path / "figures/val0.png").exists()
    assert run_inside("Trainer.py", *flags).returncode == 0
    films = {path.stem for path in (tmp_path / "figures").glob("val?.png")}
    assert films == {"val0", "val1", "val2", "val3"}, "of six sequences the first four"
