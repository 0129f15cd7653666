"""Checkpoints: written whole or not at all, read in the wrappings that are in use, refused in one line that names what
was found; no code of a file is run."""

import argparse
import os
import pickle
import subprocess

import numpy as np
import pytest
import torch

from modules.model.checkpoint import load_checkpoint, model_from_checkpoint, save_checkpoint
from modules.model.vae import VAE_Model
from modules.runtime import InputError

SIZES = {"F_dim": 16, "L_dim": 8, "N_dim": 4, "D_out_dim": 16}


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return VAE_Model(**SIZES).state_dict()


def with_prefix(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def check_weights(path, state, size=(32, 64)):
    """The file gives the model of these weights."""
    model, found_size = model_from_checkpoint(load_checkpoint(path), path)
    assert found_size == size and {name: model.config[name] for name in SIZES} == SIZES
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_round_trip(tmp_path, state):
    save_checkpoint(tmp_path / "a.ckpt", {"state_dict": state, "config": {"frame_size": [16, 32]}, "last_epoch": 3})
    check_weights(tmp_path / "a.ckpt", state, (16, 32))
    assert load_checkpoint(tmp_path / "a.ckpt")["last_epoch"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"], "no temporary file is left"


def test_a_file_has_the_users_permissions_and_a_failed_write_changes_nothing(tmp_path, state):
    path, before = tmp_path / "a.ckpt", os.umask(0o027)
    try:
        save_checkpoint(path, {"state_dict": state})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    contents = path.read_bytes()
    with pytest.raises(Exception, match="pickle|serial"):
        save_checkpoint(path, {"state_dict": lambda: None})
    assert path.read_bytes() == contents and [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrap, words", [
    (lambda s: {"state_dict": s}, []),
    (lambda s: {"state_dict": with_prefix(s, "module.")}, ["'module.' removed"]),
    (lambda s: {"state_dict": with_prefix(s, "module._orig_mod.")}, ["'module.' removed", "'_orig_mod.' removed"]),
    (lambda s: {n.replace("Generator.", "Generator._orig_mod."): t for n, t in s.items()}, ["'_orig_mod.' removed"]),
    (lambda s: dict(s), ["without an outer key"]),
    (lambda s: {"model_state_dict": s, "epoch": 2}, ["under 'model_state_dict'"]),
    (lambda s: {"model": s, "loss": np.float32(0.5)}, ["under 'model'"]),
    (lambda s: {"state_dict": s, "last_epoch": 7, "lr": np.float64(0.1), "tfr": np.int64(1), "settings": [1],
                "args": argparse.Namespace(lr=1e-3, DR="x"), "config": {"lr": 1}}, []),
], ids=["plain", "DataParallel", "both", "compiled part", "bare", "model_state_dict", "model", "beside"])
def test_weights_are_found_in_the_wrappings_in_use(state, tmp_path, capsys, wrap, words, legacy):
    torch.save(wrap(state), tmp_path / "x.ckpt", _use_new_zipfile_serialization=not legacy)
    check_weights(tmp_path / "x.ckpt", state)
    out = capsys.readouterr().out
    assert all(word in out for word in [*words, "no frame size is in it: 32x64, or --frame_H and --frame_W"])
    assert out.count("\n") == 1


@pytest.mark.parametrize("sizes", [
    {"F_dim": 32, "L_dim": 16, "N_dim": 12, "D_out_dim": 48, "arch": "multiscale", "prior": "learned", "levels": 4},
    {"F_dim": 24, "L_dim": 40, "N_dim": 3, "D_out_dim": 64, "arch": "multiscale", "prior": "standard", "levels": 6},
    {"F_dim": 64, "L_dim": 12, "N_dim": 8, "D_out_dim": 32, "arch": "template", "prior": "learned2", "levels": 1},
], ids=["learned", "multiscale", "template"])
def test_sizes_are_read_from_the_shapes_of_the_weights(tmp_path, sizes):
    config = {"model": {"F_dim": 7}, "frame_size": [64, 96], "bounded": True}
    torch.save({"state_dict": VAE_Model(**sizes).state_dict(), "config": config}, tmp_path / "x.pt")
    model, size = model_from_checkpoint(load_checkpoint(tmp_path / "x.pt"), "x.pt")
    assert model.config == sizes and size == (64, 96) and model.bounded


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_every_precision_are_read(state, tmp_path, dtype):
    other = {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}
    torch.save(other, tmp_path / "x.ckpt")
    check_weights(tmp_path / "x.ckpt", {name: t.to(state[name].dtype) for name, t in other.items()})


@pytest.mark.parametrize("change, words", [
    (lambda s: {"state_dict": {"conv1.weight": torch.ones(1), "fc.bias": torch.ones(1)}},
     ["holds no weights of this model", "frame_transformation", "found conv1.weight, fc.bias"]),
    (lambda s: {"epoch": 3, "loss": 0.5}, ["holds no weights", "state_dict", "found epoch, loss"]),
    (lambda s: [1, 2], ["holds a list, expected a dict", "save it again"]),
    (lambda s: {name: t for name, t in s.items() if name != "Generator.7.bias"},
     ["Generator.7.bias is missing", "found frame_transformation.0."]),
    (lambda s: {name: t for name, t in s.items() if not name.startswith("Decoder")}, ["of no known architecture"]),
    (lambda s: s | {"Generator.7.bias": torch.zeros(4)}, ["Generator.7.bias has shape (4,); expected (3,)"]),
    (lambda s: s | {"Generator.8.weight": torch.zeros(4)}, ["Generator.8.weight: not a weight of", "expected 209"]),
    (lambda s: s | {"Generator.7.bias": torch.full((3,), float("nan"))}, ["Generator.7.bias", "not finite"]),
    (lambda s: s | {"Generator.7.bias": torch.zeros(1).expand(10**9)}, ["Generator.7.bias", "dense"]),
    (lambda s: s | {"Generator.7.bias": "x"}, ["Generator.7.bias", "dense"]),
    (lambda s: {"state_dict": s, "config": {"frame_size": [10**9, 1]}}, ["its frame_size"]),
    (lambda s: {"state_dict": s, "config": {"frame_size": "x"}}, ["its frame_size"]),
], ids=["other", "none", "list", "missing", "network", "shape", "more", "nan", "claim", "text", "size", "size text"])
def test_a_refusal_names_what_was_found(state, tmp_path, change, words):
    torch.save(change(state), tmp_path / "x.ckpt")
    with pytest.raises(InputError) as error:
        model_from_checkpoint(load_checkpoint(tmp_path / "x.ckpt"), tmp_path / "x.ckpt")
    assert all(word in str(error.value) for word in words), error.value


class Call:
    """An object that is pickled as a call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("make", [
    lambda mark: Call(os.system, f"touch {mark}"), lambda mark: Call(eval, f"open({str(mark)!r}, 'w')"),
    lambda mark: Call(subprocess.check_output, ["touch", str(mark)]), lambda mark: Call(np.save, mark, 1),
    lambda mark: Call(bytearray, 10**14), lambda mark: np.array([{}], dtype=object),
], ids=["system", "eval", "subprocess", "numpy", "memory", "objects"])
def test_nothing_in_a_file_is_run(tmp_path, state, make, legacy):
    path, mark = tmp_path / "x.ckpt", tmp_path / "mark"
    torch.save({"state_dict": state, "x": make(mark)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match="not a readable checkpoint") as error:
        load_checkpoint(path)
    call = getattr(make(mark), "call", None)
    if call and call[0] is not bytearray and not legacy:
        assert call[0].__name__ in str(error.value) and "could run code" in str(error.value)
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("make, words", [
    (lambda path: None, "checkpoint not found"),
    (lambda path: path.mkdir(), "is a folder, expected a checkpoint; no best.ckpt is in it"),
    (lambda path: (path.mkdir(), (path / "best.ckpt").touch()), "is a folder, expected a checkpoint; use"),
    (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1"), "begin with b'version https:"),
    (lambda path: path.write_bytes(b""), "found 0 bytes"),
    (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(50)), "not a readable checkpoint"),
    (lambda path: path.write_bytes(pickle.dumps({"state_dict": {}}, 4)), "not a readable checkpoint"),
], ids=["missing", "folder", "run", "LFS pointer", "empty", "zip", "pickle"])
def test_a_file_of_another_kind_is_named(tmp_path, make, words):
    make(tmp_path / "x.ckpt")
    with pytest.raises(InputError) as error:
        load_checkpoint(tmp_path / "x.ckpt")
    assert "x.ckpt: " in str(error.value) and words in str(error.value)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_damaged_files_are_refused_or_read_as_they_were(tmp_path, state, legacy):
    """Fifty files with changed, missing and repeated bytes: an InputError, or the very same weights."""
    path, random = tmp_path / "x.ckpt", np.random.default_rng(int(legacy))
    torch.save({"state_dict": state, "last_epoch": 3}, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for _ in range(25):
        start = int(random.integers(len(whole)))
        damaged = bytearray(whole)
        damaged[start] ^= 1 << int(random.integers(8))
        for data in (damaged, whole[:start]):
            path.write_bytes(data)
            try:
                model_from_checkpoint(load_checkpoint(path), path)
            except InputError:
                continue
            assert legacy or model_from_checkpoint(load_checkpoint(path), path)[0].state_dict().keys() == state.keys()
