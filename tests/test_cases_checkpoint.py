"""Weights as people have them: other wrappings, other containers, other things beside them; folders; lost files."""

import argparse
import collections
import datetime
import enum
import functools
import os
import pathlib
import pickle
import subprocess
import types

import numpy as np
import pytest
import torch
from conftest import check_error, run_inside

from modules.model.checkpoint import load_checkpoint, model_from_checkpoint
from modules.model.find_weights import BOXES
from modules.model.vae import VAE_Model
from modules.runtime import InputError

SIZES = {"F_dim": 16, "L_dim": 8, "N_dim": 4, "D_out_dim": 16}


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return VAE_Model(**SIZES).state_dict()


def check_weights(path, state, tolerance=0.0):
    """The file gives the model of these weights."""
    model, size = model_from_checkpoint(load_checkpoint(path), path)
    assert size == (32, 64)
    assert {name: model.config[name] for name in SIZES} == SIZES
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, state[name], atol=tolerance, rtol=tolerance)


def within(state, inserted, boxes=BOXES):
    """Names with a wrapper's name after that of the box."""
    parts = ((*name.partition("."), tensor) for name, tensor in state.items())
    return {f"{box}.{inserted if box in boxes else ''}{rest}": tensor for box, _, rest, tensor in parts}


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPINGS = {
    "DataParallel": (lambda s: {"state_dict": prefixed(s, "module.")}, "prefix 'module.' removed"),
    "compile": (lambda s: {"state_dict": prefixed(s, "_orig_mod.")}, "prefix '_orig_mod.' removed"),
    "both": (lambda s: {"state_dict": prefixed(s, "module._orig_mod.")}, "prefix 'module._orig_mod.' removed"),
    "Lightning": (lambda s: {"state_dict": prefixed(s, "model.vae."), "epoch": 3, "hyper_parameters": {"lr": 1},
                             "pytorch-lightning_version": "2"}, "prefix 'model.vae.' removed"),
    "submodules": (lambda s: {"state_dict": within(s, "_orig_mod.")}, "'_orig_mod.' removed within the names"),
    "some submodules": (lambda s: {"state_dict": within(s, "module.", ("Generator",))}, "'module.' removed within"),
    "bare": (lambda s: dict(s), "without an outer key"),
    "bare DataParallel": (lambda s: prefixed(s, "module."), "prefix 'module.' removed"),
    "model_state_dict": (lambda s: {"model_state_dict": s, "epoch": 2}, "under 'model_state_dict'"),
    "model": (lambda s: {"model": prefixed(s, "net.")}, "under 'model', prefix 'net.' removed"),
    "nested": (lambda s: {"checkpoint": {"nets": [{"weights": s}]}}, "under 'checkpoint.nets.[0].weights'"),
    "boxes": (lambda s: {box: {n.partition(".")[2]: t for n, t in s.items() if n.startswith(box)} for box in BOXES},
              "without an outer key"),
    "numpy": (lambda s: {"weights": {name: tensor.numpy() for name, tensor in s.items()}}, "under 'weights'"),
    "parameters": (lambda s: {"net": {n: torch.nn.Parameter(t) if t.is_floating_point() else t for n, t in s.items()}},
                   "under 'net'"),
    "average of the weights": (
        lambda s: {"ema": {n: t + 1 for n, t in s.items()}, "net": s}, "under 'net', not those under ema"),
    "a module beside its average": (
        lambda s: {"state_dict": prefixed(s, "model.") | {f"model_ema.{n}": t + 1 for n, t in s.items()}},
        "prefix 'model.' removed, not those under state_dict.model_ema"),
}


@pytest.mark.parametrize("kind", WRAPPINGS)
def test_weights_are_found_in_every_wrapping(state, tmp_path, capsys, kind):
    wrap, words = WRAPPINGS[kind]
    legacy = list(WRAPPINGS).index(kind) % 2  # the container has no part in it
    torch.save(wrap(state), tmp_path / "x.ckpt", _use_new_zipfile_serialization=not legacy)
    check_weights(tmp_path / "x.ckpt", state)
    out = capsys.readouterr().out
    assert words in out and out.count("\n") == 1 and f"{tmp_path / 'x.ckpt'}: {len(state)} weights found" in out
    assert "no frame size is in it: 32x64, or --frame_H and --frame_W" in out


def test_names_of_the_boxes_are_the_models():
    with torch.device("meta"):
        model = VAE_Model(**SIZES, prior="learned")
    assert tuple(name for name, _ in model.named_children()) == BOXES


@pytest.mark.parametrize("sizes", [
    {"F_dim": 32, "L_dim": 16, "N_dim": 12, "D_out_dim": 48, "arch": "multiscale", "prior": "learned", "levels": 4},
    {"F_dim": 24, "L_dim": 40, "N_dim": 3, "D_out_dim": 64, "arch": "multiscale", "prior": "standard", "levels": 6},
    {"F_dim": 64, "L_dim": 12, "N_dim": 8, "D_out_dim": 32, "arch": "template", "prior": "learned", "levels": 1},
], ids=["learned", "multiscale", "template"])
def test_sizes_are_read_from_bare_weights(tmp_path, sizes):
    torch.save(VAE_Model(**sizes).state_dict(), tmp_path / "x.pt")
    assert model_from_checkpoint(load_checkpoint(tmp_path / "x.pt"), "x.pt")[0].config == sizes | {"last_maps": 0}


def test_a_whole_pickled_model_is_read(state, tmp_path):
    model = VAE_Model(**SIZES)
    model.load_state_dict(state)
    whole = {"model": torch.nn.DataParallel(model), "optimizer": torch.optim.Adam(model.parameters())}
    torch.save(whole, tmp_path / "x.pt")
    check_weights(tmp_path / "x.pt", state)


class Options(dict):
    """A dict of the user's own."""


class Config:
    """A class of the user's own."""

    def __init__(self):
        self.lr = 1e-3


class Kind(enum.Enum):
    FIRST = 1


BESIDE = {
    "Namespace": argparse.Namespace(lr=1, path=pathlib.Path("a/b")), "path": pathlib.PurePosixPath("/data"),
    "windows": pathlib.PureWindowsPath("C:/data"), "scalar": np.float64(0.5), "integer": np.int64(7),
    "array": np.arange(6.0).reshape(2, 3), "objects": np.array([{}], dtype=object), "dtype": np.dtype("f4"),
    "text": np.str_("x"), "defaultdict": collections.defaultdict(list, a=[1]), "own class": Config(),
    "own dict": Options(lr=1), "own values": Options(net=torch.ones(1)),
    "ordered": collections.OrderedDict(a=1), "counter": collections.Counter("aab"), "set": {1, 2}, "type": np.float32,
    "device": torch.device("cpu"), "random": [np.random.get_state(), torch.get_rng_state()], "size": torch.Size([1]),
    "sparse": torch.eye(3).to_sparse(), "complex": 1j, "bytes": b"abc", "method": Config().__init__,
    "enum": Kind.FIRST, "deque": collections.deque([1]), "simple": types.SimpleNamespace(lr=1),
    "date": datetime.datetime(2024, 1, 2), "partial": functools.partial(print, 1), "function": torch.relu,
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_what_people_keep_beside_weights_is_no_reason_to_refuse(state, tmp_path, legacy):
    path = tmp_path / "x.ckpt"
    beside = dict(BESIDE)
    if legacy:
        del beside["sparse"]  # torch checks those of its unfinished readings, too
    torch.save({"state_dict": state, "args": beside}, path, _use_new_zipfile_serialization=not legacy)
    check_weights(path, state)
    found = load_checkpoint(path)["args"]
    assert found.keys() == beside.keys()
    for name in ("ordered", "counter", "set", "complex", "bytes", "own dict", "integer"):
        assert found[name] == BESIDE[name], name
    assert found["Namespace"] == {"lr": 1, "path": "a/b"} and found["own class"] == {"lr": 1e-3}


def test_numbers_keep_their_values(state, tmp_path):
    numbers = {"a": np.float64(0.5), "b": np.int16(-7), "c": np.bool_(True), "d": pathlib.PurePosixPath("a/b")}
    torch.save({"state_dict": state, "numbers": numbers}, tmp_path / "x.ckpt")
    assert load_checkpoint(tmp_path / "x.ckpt")["numbers"] == {"a": 0.5, "b": -7, "c": True, "d": "a/b"}


@pytest.mark.parametrize("value, expected", [
    (torch.tensor(3), 3), (3.0, 3), ("3", 3), (np.int64(3), 3), (np.float32(3), 3), (torch.tensor([3.0]), 3),
    ("third", None), (None, None), (3.5, None), (torch.zeros(2), None), (float("nan"), None), ([3], None),
    (10**30, None),
], ids=str)
def test_last_epoch_of_another_type_is_read_or_left_out(tmp_path, capsys, value, expected):
    torch.save({"state_dict": {"Generator.7.bias": torch.zeros(3)}, "last_epoch": value}, tmp_path / "x.ckpt")
    assert load_checkpoint(tmp_path / "x.ckpt").get("last_epoch") == expected
    assert ("last_epoch is not a whole number" in capsys.readouterr().err) == (expected is None)


@pytest.mark.parametrize("dtype, legacy", [(torch.float16, True), (torch.bfloat16, False), (torch.float64, True)])
def test_weights_of_every_precision_are_read(state, tmp_path, dtype, legacy):
    narrowed = {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}
    torch.save(narrowed, tmp_path / "x.ckpt", _use_new_zipfile_serialization=not legacy)
    check_weights(tmp_path / "x.ckpt", {name: t.to(state[name].dtype) for name, t in narrowed.items()})


def test_helper_networks_are_left_out_with_one_warning(state, tmp_path, capsys):
    helpers = {f"discriminator.{i}.weight": torch.ones(2) for i in range(20)} | {"vgg.0.bias": torch.ones(3)}
    torch.save({"state_dict": prefixed(state, "vae.") | helpers, "config": {"model": "mine"}, "settings": [1]},
               tmp_path / "x.ckpt")
    check_weights(tmp_path / "x.ckpt", state)
    out, err = capsys.readouterr()
    assert "prefix 'vae.' removed" in out
    assert err == (f"warning: {tmp_path / 'x.ckpt'}: 21 tensors are not the model's and left out: "
                   "discriminator.0.weight, discriminator.1.weight, discriminator.2.weight … (21)\n")


def test_what_older_torch_lacks_and_profilers_add_does_no_harm(state, tmp_path):
    older = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    profiled = older | {"Generator.total_ops": torch.zeros(1), "Generator.7.total_params": torch.zeros(1)}
    torch.save({"state_dict": profiled}, tmp_path / "x.ckpt")
    check_weights(tmp_path / "x.ckpt", state)


@pytest.mark.parametrize("change, words", [
    (lambda s: {"state_dict": {"conv1.weight": torch.ones(1), "fc.bias": torch.ones(1)}},
     ["holds no weights of this model", "frame_transformation", "found conv1.weight, fc.bias"]),
    (lambda s: {"epoch": 3, "loss": 0.5}, ["holds no weights", "state_dict", "found epoch, loss"]),
    (lambda s: [1, 2], ["holds no weights", "found list"]),
    (lambda s: {name: t for name, t in s.items() if name != "Generator.7.bias"},
     ["Generator.7.bias is missing", "found frame_transformation.0."]),
    (lambda s: {name: t for name, t in s.items() if not name.startswith("frame")},
     ["frame_transformation.6.weight is missing", "found label_transformation."]),
    (lambda s: s | {"Generator.7.bias": torch.zeros(4)}, ["Generator.7.bias has shape (4,); expected (3,)"]),
    (lambda s: s | {"Generator.8.weight": torch.zeros(4)}, ["Generator.8.weight is unknown", "expected 209"]),
    (lambda s: s | {"Generator.7.bias": torch.full((3,), float("nan"))}, ["Generator.7.bias", "not finite"]),
], ids=["other", "none", "list", "missing", "box", "shape", "more", "nan"])
def test_a_refusal_names_what_was_found(state, tmp_path, change, words):
    torch.save(change(state), tmp_path / "x.ckpt")
    with pytest.raises(InputError) as error:
        model_from_checkpoint(load_checkpoint(tmp_path / "x.ckpt"), tmp_path / "x.ckpt")
    assert all(word in str(error.value) for word in words), error.value


class Evil:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("make", [
    lambda mark: Evil(os.system, f"touch {mark}"), lambda mark: Evil(eval, f"open({str(mark)!r}, 'w')"),
    lambda mark: Evil(subprocess.check_output, ["touch", str(mark)]), lambda mark: Evil(pathlib.Path.touch, mark),
    lambda mark: Evil(torch.load, mark), lambda mark: Evil(np.save, mark, 1), lambda mark: Evil(bytearray, 10**14),
], ids=["system", "eval", "subprocess", "touch", "load", "numpy", "memory"])
def test_nothing_in_a_file_is_run(tmp_path, make, legacy):
    """Calls of Python's own library are refused, those of torch and numpy left out; none is made. (But a bytearray of a
    claimed size, which torch's reader would make, is too large for the memory.)"""
    path, mark = tmp_path / "x.ckpt", tmp_path / "mark"
    contents = {"state_dict": {"Generator.7.bias": torch.zeros(3)}, "x": make(mark)}
    torch.save(contents, path, _use_new_zipfile_serialization=not legacy)
    try:
        load_checkpoint(path)
    except InputError as error:
        fault = "damaged" if make(mark).call[0] is bytearray else "pickled Python objects, which could run code"
        assert fault in str(error)
    else:
        assert make(mark).call[0] in (torch.load, np.save)
    assert sorted(tmp_path.iterdir()) == [path]


def test_claims_of_the_older_container_cost_nothing(state, tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {"Generator.7.bias": torch.zeros(3)}}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    count = data.rindex((3).to_bytes(8, "little"))
    for fault in (data[:-1], data[:count] + (1 << 60).to_bytes(8, "little") + data[count + 8 :], data[:99]):
        path.write_bytes(fault)
        with pytest.raises(InputError, match="damaged or incomplete"):
            load_checkpoint(path)


@pytest.mark.parametrize("data, words", [
    (b"version https://git-lfs.github.com/spec/v1", "begins with b'version https:"), (b"", "is empty"),
    (b"<!DOCTYPE html><html>", "begins with b'<!DOCTYPE"), (b"PK\x03\x04" + bytes(50), "damaged or incomplete"),
    (b"\x80\x02" + b"r\xff\xff\xff\xff" * 9, "damaged or incomplete"),
    (pickle.dumps({"state_dict": {}}, 2), "pickled otherwise"), (pickle.dumps({}, 4), "pickled otherwise"),
    (b"\x93W" + bytes(6) + b'{"__metadata__":', "begins with b'\\x93W"),
])
def test_a_file_of_another_kind_says_how_it_begins(tmp_path, data, words):
    (tmp_path / "x.ckpt").write_bytes(data)
    with pytest.raises(InputError) as error:
        load_checkpoint(tmp_path / "x.ckpt")
    assert "x.ckpt: not a readable checkpoint" in str(error.value) and words in str(error.value)


@pytest.mark.parametrize("files, best", [
    (["best.ckpt", "last.ckpt", "epoch=9.ckpt"], "best.ckpt"), (["last.ckpt", "epoch=9.ckpt"], "last.ckpt"),
    (["epoch=9.ckpt", "epoch=10.ckpt", "epoch=8.pth"], "epoch=10.ckpt"), (["model.pth", "metrics.csv"], "model.pth"),
    (["run/best.ckpt", "run/last.ckpt"], "run/best.ckpt"), (["a.txt", "run/epoch=3.pt"], "run/epoch=3.pt"),
    (["model_best.pth.tar", "checkpoint.pth.tar"], "model_best.pth.tar"), (["a.txt"], None),
])
def test_a_folder_names_the_file_to_use(tmp_path, files, best):
    for name in files:
        (tmp_path / "runs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / name).touch()
    flags = ["--DR", tmp_path, "--save_root", tmp_path / "out", "--ckpt_path", tmp_path / "runs"]
    result = run_inside("Tester.py", *flags)
    expected = f"use the checkpoint {tmp_path / 'runs' / best} in it" if best else "no checkpoint is in it"
    check_error(result, f"{tmp_path / 'runs'}: is a folder", expected)


@pytest.mark.parametrize("asked, hint", [
    ("run/besst.ckpt", "there is {}/run/best.ckpt"), ("run/best", "there is {}/run/best.ckpt"),
    ("run/zzz.ckpt", "there is {}/run/best.ckpt"), ("rum/best.ckpt", "there is no folder {}/rum; there is {}/run/best"),
    ("x/y/best.ckpt", "there is no folder {}/x"), ("run/best.ckpt/best.ckpt", "there is {}/run/best.ckpt"),
])
def test_a_missing_file_names_a_near_one(tmp_path, asked, hint):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/best.ckpt").touch()
    (tmp_path / "run/last.ckpt").touch()
    with pytest.raises(InputError) as error:
        load_checkpoint(tmp_path / asked)
    assert f"{asked}: checkpoint not found" in str(error.value)
    assert hint.replace("{}", str(tmp_path)) in str(error.value)


def test_the_tester_predicts_with_wrapped_weights(dance, trained, tmp_path):
    best, path = torch.load(trained[0] / "best.ckpt"), tmp_path / "x.pth"
    wrapped = {"model_state_dict": prefixed(best["state_dict"], "module."), "last_epoch": np.float64(1.0),
               "args": argparse.Namespace(DR=pathlib.Path("x"))}
    torch.save(wrapped, path, _use_new_zipfile_serialization=False)
    result = run_inside("Tester.py", "--DR", dance, "--save_root", tmp_path, "--ckpt_path", path, "--frame_H", 16,
                        "--frame_W", 32, "--no_baselines", "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert "under 'model_state_dict', prefix 'module.' removed" in result.stdout
    check_weights(path, best["state_dict"])
