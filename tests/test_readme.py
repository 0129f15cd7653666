"""The README explains every flag, and the scripts and commands that it names exist."""

import re

import pytest
from conftest import ROOT

from modules import options

README = (ROOT / "README.md").read_text()


def test_every_flag_is_explained():
    source = (ROOT / "modules/options.py").read_text()
    flags = set(re.findall(r'add_argument\("(--\w+)"', source))
    assert len(flags) > 50
    assert not [flag for flag in sorted(flags) if f"`{flag}`" not in README]


def test_presets_in_the_readme_are_those_of_the_code():
    rows = {cells[1].split("`")[1]: [cell.strip() for cell in cells[2:5]]
            for cells in (line.split("|") for line in README.splitlines() if line.startswith("| `--"))}
    args = {preset: options.parse_trainer(["--DR", "x", "--save_root", "x", "--preset", preset])
            for preset in ("template", "best", "report")}
    for flag in ("--batch_size", "--lr", "--num_epoch", "--train_vi_len", "--F_dim", "--ema", "--posterior_share"):
        for cell, parsed in zip(rows[flag], args.values(), strict=True):
            assert float(cell or 0) == pytest.approx(float(getattr(parsed, flag[2:]))), flag


def test_named_files_exist():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    for path in links + re.findall(r"(?:bash|python) (scripts/\w+\.\w+)", README):
        assert (ROOT / path).exists(), path
