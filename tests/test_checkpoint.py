"""Reading and writing checkpoints."""

import os

import pytest
import torch

from modules.model.checkpoint import load_checkpoint, model_from_checkpoint, save_checkpoint
from modules.model.vae import VAE_Model
from modules.runtime import InputError

SIZES = {"arch": "template", "F_dim": 16, "L_dim": 8, "N_dim": 4, "D_out_dim": 16}


@pytest.fixture
def contents():
    state = VAE_Model(**SIZES).state_dict()
    return {"state_dict": state, "config": {"model": SIZES, "frame_size": [16, 32]}, "last_epoch": 0}


def test_round_trip(tmp_path, contents):
    save_checkpoint(tmp_path / "a.ckpt", contents)
    model, size = model_from_checkpoint(load_checkpoint(tmp_path / "a.ckpt"), "a.ckpt")
    assert size == (16, 32)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, contents["state_dict"][name])
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"], "no temporary file is left"


def test_files_can_be_read_by_whom_the_user_lets(tmp_path, contents):
    before = os.umask(0o027)
    try:
        save_checkpoint(tmp_path / "a.ckpt", contents)
    finally:
        os.umask(before)
    assert (tmp_path / "a.ckpt").stat().st_mode & 0o777 == 0o640


def test_a_failed_write_keeps_the_older_file(tmp_path, contents):
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, contents)
    before = path.read_bytes()
    with pytest.raises(Exception, match="pickle|serial"):
        save_checkpoint(path, {"state_dict": lambda: None})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


class Calls:
    """An object that is pickled as a call of a function."""

    def __reduce__(self):
        return print, ("run",)


def test_pickled_objects_are_refused_with_the_reason(tmp_path, contents):
    torch.save(contents | {"args": torch.nn.functional.relu, "call": Calls()}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match="pickled Python objects"):
        load_checkpoint(tmp_path / "a.ckpt")


def test_bad_files_are_named(tmp_path, contents):
    path = tmp_path / "a.ckpt"
    with pytest.raises(InputError, match="not found"):
        load_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="a.ckpt: not a readable checkpoint"):
        load_checkpoint(path)
    save_checkpoint(path, contents)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match="a.ckpt: not a readable checkpoint"):
        load_checkpoint(path)
    save_checkpoint(path, {"weights": 1})
    with pytest.raises(InputError, match="state_dict"):
        load_checkpoint(path)


@pytest.mark.parametrize("change, words", [
    (lambda state: state.pop("Generator.7.bias"), "Generator.7.bias is missing"),
    (lambda state: state.update({"Generator.7.bias": torch.zeros(4)}), r"Generator.7.bias has shape \(4,\)"),
    (lambda state: state.update(other=torch.zeros(2)), "other is unknown"),
    (lambda state: state["Generator.7.bias"].fill_(float("nan")), "not finite"),
])
def test_weights_that_do_not_fit_are_named(contents, change, words):
    change(contents["state_dict"])
    with pytest.raises(InputError, match=words):
        model_from_checkpoint(contents, "a.ckpt")
