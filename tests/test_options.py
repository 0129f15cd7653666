"""The flags of both programs: values, prefixes and presets of the template; what a dry run says of them."""

import argparse

import pytest
from conftest import SMALL, check_error, run_inside

import modules.options as options
from modules.options import COURSE_TESTER, COURSE_TRAINER, parse_tester, parse_trainer
from modules.runtime import InputError
from modules.show.runs import read_history
from modules.train.schedules import Schedules, data_share

NEEDED = ["--DR", "data", "--save_root", "run", "--ckpt_path", "a.ckpt"]
PARSERS = {"Trainer.py": (parse_trainer, options.trainer_parser, COURSE_TRAINER),
           "Tester.py": (parse_tester, options.tester_parser, COURSE_TESTER)}
BOTH = pytest.mark.parametrize("program", PARSERS)


@BOTH
def test_every_value_of_the_template_is_taken(program):
    for flag, value, read in (
        ("num_workers", "0", 0), ("gpu", "0", 0), ("device", "cuda:3", "cuda:3"), ("device", "CPU", "cpu"),
        ("kl_anneal_ratio", "1.25", 1.25), ("kl_anneal_ratio", "2", 2), ("tfr_sde", "0", 0), ("optim", "adam", "Adam"),
        ("optim", "ADAMW", "AdamW"), ("kl_anneal_type", "cyclical", "Cyclical"), ("kl_anneal_type", "Without", "None"),
        ("fast_train_epoch", "0", 0), ("tfr_d_step", "0", 0), ("tfr", "0", 0), ("partial", "1", 1),
    ):
        assert getattr(PARSERS[program][0]([*NEEDED, f"--{flag}", value]), flag) == read, flag


@BOTH
@pytest.mark.parametrize("wrong, words", [
    (["--num_workers", "-1"], "--num_workers"), (["--num_workers", "four"], "'four'"),
    (["--optim", "SGD"], "SGD"), (["--kl_anneal_type", "sinus"], "Cyclical, Monotonic"), (["--num"], "--num"),
    (["--lr"], "--lr"), (["--lr", "nan"], "--lr"), (["--tfr", "1.5"], "at most 1"), (["--seed", "1", "3"], "3"),
    (["--batch_size", "0"], "--batch_size"), (["--save_root", ""], "empty name"), (["--save_root", " "], "empty name"),
    (["--save_root", "run\r"], "'run\\r'"), (["--epoch", "3"], "did you mean --num_epoch"),
    (["--epochs=3"], "--num_epoch"), (["--dr", "x"], "--DR"), (["--cuda_graphs"], "--cuda_graphs"),
    (["--save_roots", "x"], "did you mean --save_root?"), (["--lr", "0"], "--lr: 0; expected more than 0 "),
    (["--num_epoch", "99999999"], "at least 1, at most 1000000 "),
])
def test_an_error_in_a_flag_is_one_line(program, wrong, words):
    result = run_inside(program, *NEEDED, *wrong)
    check_error(result, words)
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("parse, flags, words", [
    (parse_trainer, ["--save_root", "x"], "--DR is needed"), (parse_tester, ["--save_root", "x"], "--DR is needed"),
    (parse_trainer, ["--dr", "x", "--save-root", "y"], "mean --DR"), (parse_tester, NEEDED[:2], "--save_root is"),
    (parse_trainer, ["--DR", "x", "--save_root", "y", "--test"], "give it with --ckpt_path"),
    (parse_trainer, [*NEEDED, "--shift_down", "3", "--preset", "template"], "no effect with --windows template"),
    (parse_trainer, [*NEEDED, "--tfr_rule", "interval", "--tfr", "0.5", "--tfr_sde", "0"], "--tfr_sde 0"),
    (parse_trainer, [*NEEDED, "--kl_beta", "1", "--kl_anneal_type", "None"], "--kl_beta has no effect"),
    (parse_trainer, [*NEEDED, "--last_frame", "previous", "--preset", "template"], "--last_frame has no effect with"),
    (parse_trainer, [*NEEDED, "--preset", "recursive", "--prior", "standard", "--last_frame", "previous"],
     "no effect with --prior standard"),
    (parse_trainer, [*NEEDED, "--prior", "standard", "--last_noise", "0.1"], "--last_noise has no effect with --prior"),
])
def test_flags_that_miss_or_contradict_another_are_one_line(parse, flags, words):
    with pytest.raises(InputError, match=words):
        parse(flags)


@BOTH
def test_every_prefix_that_is_unique_among_the_templates_flags_is_that_flag(program):
    """For ever: our own flags are written out."""
    _, make, course = PARSERS[program]
    parser, tried = make(), 0
    parser._defaults.clear()
    values = {a.dest: [] if a.nargs == 0 else [str(a.choices[0]) if a.choices else "1"] for a in parser._actions}
    values |= {"device": ["cpu"], "kl_anneal_type": ["None"], "train_vi_len": ["2"], "val_vi_len": ["2"]}
    for action in parser._actions:
        action.default, action.required = argparse.SUPPRESS, False
    for name in sorted(course):
        for end in range(1, len(name) + 1):
            prefix = name[:end]
            if sum(other.startswith(prefix) for other in course) == 1 or prefix == name:
                for words in ([f"--{prefix}", *values[name]], ["=".join([f"--{prefix}", *values[name]])]):
                    assert set(vars(parser.parse_args(words))) == {name}, prefix
                    tried += 1
    assert tried > 300, "both spellings of every prefix"


def test_presets_are_flags_and_a_given_flag_wins(monkeypatch):
    common = ["--DR", "x", "--save_root", "~/y"]
    template, report = (parse_trainer([*common, "--preset", name]) for name in ("template", "report"))
    assert (template.batch_size, template.num_epoch, template.kl_anneal_cycle, template.tfr) == (2, 70, 10, 1.0)
    assert template.lr == 1e-3 and parse_trainer([*common, "--preset", "template", "--lr", "0.5"]).lr == 0.5
    assert (report.batch_size, report.lr, report.num_epoch) == (4, 1e-4, 61)
    assert (report.fast_train_epoch, report.fast_partial) == (10, 0.4)
    assert (report.z_from, report.tf_decides, report.tfr_rule, report.kl_horizon) == ("prior", "target", "interval", 16)
    assert parse_trainer([*common, "--ckpt", "a", "--fast_train", "--num_e", "3"]).num_epoch == 3
    assert parse_trainer(common).random_start and not parse_trainer([*common, "--no-random_start"]).random_start
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parse_trainer(common).save_root == "/home/somebody/y"


def plan(*flags):
    """The schedules of a run on the course's training frames, taken as one clip."""
    args = parse_trainer([*NEEDED, *map(str, flags)])
    windows = [int(23410 * data_share(args, epoch)) // args.train_vi_len for epoch in range(args.num_epoch)]
    return Schedules(args, [count // args.batch_size for count in windows])


def test_schedules_by_hand():
    rows = plan("--preset", "template", "--num_epoch", 20, "--kl_anneal_cycle", 2, "--kl_anneal_ratio", 0.5).table()
    assert [row.beta for row in rows[:10]] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1])
    assert [row.beta for row in rows[10:12]] == [0, 0.25]
    assert [row.tfr for row in rows] == [1.0] * 11 + [pytest.approx(1 - 0.1 * n) for n in range(1, 10)]
    assert [row.tfr for row in plan("--preset", "report", "--num_epoch", 20).table()] == [1.0] * 10 + [0.9] * 10
    fast = plan("--preset", "report").steps
    assert fast[9] == int(23410 * 0.4) // 16 // 4 and fast[10] == 23410 // 16 // 4


def test_a_run_says_first_what_it_will_do_and_then_does_it(trained):
    folder, result = trained
    before = result.stdout.partition("epoch 0")[0]
    for words in ("tfr (teacher forcing ratio):", "beta (weight of the KL", "lr (learning rate", "2 epochs",
                  "parameters", "train: ", "val: ", str(folder), "--fast_partial is accepted and has no effect"):
        assert words in before, words
    written, schedules = read_history(folder / "metrics.csv"), plan("--preset", "template", "--num_epoch", 2, *SMALL)
    for column in ("beta", "tfr", "lr"):
        expected = [getattr(now, column) for now in schedules.table()]
        assert [row[column] for row in written] == pytest.approx(expected), column
