"""Checkpoints: written atomically, read safely, whoever wrote them and whatever they are wrapped in.

Ours and the course template's share `state_dict`, `lr`, `tfr` and `last_epoch`. Ours add
    config      how to build the model: the arguments of VAE_Model and the frame size
    settings    the resolved flags of the run, to compare with those of the command that goes on with it
    training    what is needed to go on exactly: training weights, EMA, history, best score, the epoch's progress
    optimizer   the state of each optimizer, by its name
`state_dict` is always the weights to predict with. The template's `optimizer` holds the model's weights: not read.

A file may come from anybody: names, types, shapes and sizes are checked before anything is built from them.
"""

import difflib
import inspect
import io
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from modules.files import write_bytes
from modules.model.find_weights import find_weights, listed, shown, warn
from modules.model.tensor_file import read_tensor_file
from modules.model.vae import VAE_Model
from modules.runtime import InputError

DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(VAE_Model).parameters.items()}
OF_WEIGHTS = ("levels", "last_maps")  # how to build the model, and no flag: the names of weights tell, see `read_names`
MODEL_FLAGS = tuple(name for name in DEFAULTS if name not in OF_WEIGHTS)  # the other arguments of VAE_Model
ENDINGS = (".ckpt", ".pth", ".pt", ".pth.tar")
TEMPLATE_SIZE = (32, 64)
MAX_CHANNELS, MAX_SIDE, MAX_COUNT = 1 << 14, 1 << 14, 1 << 40  # F_dim and the others; pixels; epochs and steps
LARGEST = 1e30  # of a number in the history
# where a size shows in the shapes of the weights: a layer and the axis
SIZES = {
    "template": {
        "F_dim": ("frame_transformation.6.weight", 0), "L_dim": ("label_transformation.4.conv2.weight", 0),
        "N_dim": ("Gaussian_Predictor.4.conv2.weight", 0), "D_out_dim": ("Decoder_Fusion.5.weight", 0),
    },
    "multiscale": {
        "F_dim": ("Gaussian_Predictor.frame.weight", 0), "L_dim": ("label_transformation.convs.3.weight", 0),
        "N_dim": ("Decoder_Fusion.latent.weight", 1), "D_out_dim": ("Gaussian_Predictor.pose.weight", 1),
    },
}


def save_checkpoint(path: Path, contents: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain Python values."""
    buffer = io.BytesIO()  # torch.save on a file hides the reason of a failed write
    torch.save(contents, buffer)
    write_bytes(path, buffer.getbuffer())


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, without running anything that is in it.

    `state_dict` is the model's weights under the model's own names, wherever they were in the file and whatever stood
    before their names; a printed line says so where that was not there. `last_epoch` is a whole number, or missing.
    """
    path = Path(path)
    check_is_file(path)
    contents = read_tensor_file(path)
    state, words = find_weights(contents, path)
    contents = (dict(contents) if isinstance(contents, dict) else {}) | {"state_dict": state}
    if not has_config(contents):
        height, width = TEMPLATE_SIZE
        words += f"{'; ' if words else ''}no frame size is in it: {height}x{width}, or --frame_H and --frame_W"
    if words:
        print(f"{path}: {words}")
    if "last_epoch" in contents:
        contents["last_epoch"] = to_whole(contents["last_epoch"])
        if contents["last_epoch"] is None:
            warn(f"{path}: its last_epoch is not a whole number; left out")
            del contents["last_epoch"]
    if not is_plain(contents.get("settings", {})):
        if "training" in contents:
            raise InputError(f"{path}: its settings are not a dict of plain values")
        del contents["settings"]  # of another program
    return contents


def check_is_file(path: Path) -> None:
    """InputError unless it is a file; names the checkpoint that may have been meant."""
    if os.path.isfile(path):
        return
    if os.path.isdir(path):
        best = best_checkpoint(path)
        found = f"use the checkpoint {best} in it" if best else "no checkpoint is in it, nor one level down"
        raise InputError(f"{path}: is a folder, expected a file; {found}")
    if os.path.exists(path):
        raise InputError(f"{path}: is not a file; expected a checkpoint")
    lost = path  # the first part of the path that is not there
    while not os.path.isdir(lost.parent) and lost.parent != lost:
        lost = lost.parent
    names = [e.name for e in entries(lost.parent) if e.name.lower().endswith(ENDINGS) or os.path.isdir(e)]
    near = [name for name in names if name.partition(".")[0] == lost.name]
    near = [lost.parent / name for name in near or difflib.get_close_matches(lost.name, names, 1)]
    meant = near[0] if near else lost.parent
    if os.path.isdir(meant):
        meant = best_checkpoint(meant)
    hints = [f"there is no folder {lost}"] * (lost != path) + [f"there is {meant}"] * (meant is not None)
    raise InputError("; ".join([f"{path}: checkpoint not found", *hints]))


def entries(folder: Path) -> list[Path]:
    """What is in a folder, by name; nothing if it cannot be listed."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def best_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to use of a folder, or of those in it: best.ckpt, last.ckpt, the highest epoch=N, the newest."""

    def worth(file: Path) -> tuple:
        epoch, name = re.search(r"epoch\D?(\d{1,15})", file.name), file.name.lower()
        return "best" in name, "last" in name, int(epoch[1]) if epoch else -1, os.path.getmtime(file)

    inside = entries(folder)
    for files in (inside, [file for child in inside for file in entries(child)]):
        found = [file for file in files if file.name.lower().endswith(ENDINGS) and os.path.isfile(file)]
        if found:
            return max(found, key=worth)
    return None


def read_config(contents: dict[str, Any], path: str | Path) -> tuple[dict[str, Any], tuple[int, int]]:
    """The arguments of VAE_Model and the frame size (H, W) that a checkpoint's weights are for.

    Without a `config` of ours the sizes are read from the shapes of the weights. OF_WEIGHTS are always read from the
    weights' names: older files don't tell them. The weights are compared with a model without memory, so sizes that
    the file only claims cost nothing.
    """
    state, config = contents["state_dict"], contents.get("config")
    if not has_config(contents):
        config = {"model": sizes_of(state, path), "frame_size": TEMPLATE_SIZE}
    sizes, frame_size = config.get("model"), config["frame_size"]
    if not isinstance(frame_size, (list, tuple)) or len(frame_size) != 2:
        raise InputError(f"{path}: its 'config' has no frame_size of two whole numbers")
    if not all(is_whole(side, 1, MAX_SIDE) for side in frame_size):
        raise InputError(f"{path}: its frame_size is outside 1 … {MAX_SIDE}")
    if not isinstance(sizes, dict) or not all(
        isinstance(value, str) if isinstance(DEFAULTS.get(name), str) else is_whole(value, 1, MAX_CHANNELS)
        for name, value in sizes.items() if name not in OF_WEIGHTS
    ):
        raise InputError(f"{path}: its 'config' does not describe a model with channels of 1 … {MAX_CHANNELS}")
    with torch.device("meta"), NoFirstValues():
        model = build_model(sizes | read_names(state), frame_size, f"{path}: its 'config'")
    check_weights(model, state, path)
    return model.config, (frame_size[0], frame_size[1])


class NoFirstValues(TorchFunctionMode):
    """Within, no normal numbers are drawn. For tensors without memory torch would import its compiler and sympy: a
    second."""

    def __torch_function__(self, function, types, arguments=(), options=None):
        if function in (Tensor.normal_, torch.nn.init.normal_):
            return arguments[0] if arguments else options["tensor"]
        return function(*arguments, **(options or {}))


def has_config(contents: dict[str, Any]) -> bool:
    """Whether a checkpoint's `config` is one of ours; other programs have theirs under this key."""
    return isinstance(contents.get("config"), dict) and "frame_size" in contents["config"]


def sizes_of(state: dict[str, Tensor], path: str | Path) -> dict[str, Any]:
    """The arguments of VAE_Model from the names and shapes of its weights."""

    def missing(arch: str) -> list[str]:
        return [layer for layer, _ in SIZES[arch].values() if getattr(state.get(layer), "ndim", 0) != 4]

    arch = min(SIZES, key=lambda arch: len(missing(arch)))
    if missing(arch):
        raise InputError(
            f"{path}: the weight {missing(arch)[0]} is missing; expected the {arch} architecture's names; found "
            f"{listed(state)}"
        )
    sizes = {name: state[layer].shape[axis] for name, (layer, axis) in SIZES[arch].items()}
    learned = any(str(name).startswith("prior.") for name in state)
    return {"arch": arch, "prior": "learned" if learned else "standard"} | sizes


def read_names(state: dict[str, Tensor]) -> dict[str, int | None]:
    """OF_WEIGHTS by the names of a multi-scale model's weights; those of a new template, if they are not of one."""

    def numbers(pattern: str) -> list[int]:
        return [int(match[1]) for match in (re.fullmatch(pattern, str(name)) for name in state) if match]

    levels = numbers(r"frame_transformation\.convs\.(\d{1,3})\.weight")
    last_maps = numbers(r"Decoder_Fusion\.last\.(\d{1,3})\.weight")
    return {"levels": max(levels) + 1 if levels else None, "last_maps": len(last_maps)}


def model_from_checkpoint(contents: dict[str, Any], path: str | Path) -> tuple[VAE_Model, tuple[int, int]]:
    """Build the model that a checkpoint describes and load its weights. Returns it with its frame size (H, W)."""
    config, frame_size = read_config(contents, path)
    model = VAE_Model(**config)
    load_weights(model, contents["state_dict"], path)
    return model, frame_size


def build_model(sizes: dict[str, Any], frame_size: tuple[int, int], source: str) -> VAE_Model:
    """VAE_Model(**sizes) for frames (H, W); an InputError says what is wrong with `source`, which gave the sizes."""
    try:
        model = VAE_Model(**sizes)
        if not all(parameter.numel() for parameter in model.parameters()):
            raise ValueError("a layer has no channels: a size is too small")
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"{source} does not describe a model ({error})") from None
    check_frame_size(model, frame_size, source)
    return model


def check_frame_size(model: VAE_Model, frame_size: tuple[int, int], source: str) -> None:
    """InputError if the model cannot make frames (H, W)."""
    scale = model.latent_scale
    if any(side % scale for side in frame_size):
        height, width = frame_size
        near = "x".join(str(max(1, round(side / scale)) * scale) for side in frame_size)
        raise InputError(f"{source}: frames of {height}x{width}; expected multiples of {scale}, such as {near}")


def load_weights(model: torch.nn.Module, state: Any, path: str | Path) -> None:
    """Load a state_dict; an InputError names the first name or shape that does not fit."""
    check_weights(model, state, path)
    model.load_state_dict({name: state.get(name, tensor) for name, tensor in model.state_dict().items()})


def check_weights(model: torch.nn.Module, state: Any, path: str | Path) -> None:
    """InputError unless `state` holds finite tensors of the model's names and shapes.

    Torch before 0.4.1 kept no `num_batches_tracked`; counters that a profiler adds, a number each, do no harm.
    """
    if not isinstance(state, dict):
        raise InputError(f"{path}: its weights are not a dict of tensors")
    expected = model.state_dict()
    for name, tensor in expected.items():
        if name not in state and name.endswith("num_batches_tracked"):
            continue
        if not isinstance(state.get(name), Tensor):
            unknown = [name for name in state if name not in expected]
            raise InputError(
                f"{path}: the weight {name} is missing; it is not a checkpoint of this architecture; found "
                f"{listed(unknown or state)}, expected {listed(expected)}"
            )
        if state[name].shape != tensor.shape:
            found, wanted = tuple(state[name].shape), tuple(tensor.shape)
            raise InputError(f"{path}: the weight {name} has shape {found}; expected {wanted}")
        if not is_real(state[name]):
            raise InputError(f"{path}: the weight {name} is not a dense tensor of real numbers")
        if not torch.isfinite(state[name].float()).all():
            raise InputError(f"{path}: the weight {name} holds values that are not finite")
    extra = [name for name in state if name not in expected and not is_counter(state[name])]
    if extra:
        raise InputError(
            f"{path}: the weight {shown(extra[0])} is unknown; it is not a checkpoint of this architecture; found "
            f"{len(state)} weights, expected {len(expected)}"
        )


def is_counter(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and value.ndim <= 1


def to_whole(value: Any) -> int | None:
    """A whole number of at least -1 that was kept as such, as a float, a string or a tensor; None for anything else."""
    try:
        value = float(value) if type(value) in (float, str, Tensor) else value
        value = int(value) if type(value) is float and value.is_integer() else value
    except (ValueError, RuntimeError):
        return None
    return value if is_whole(value, -1) else None


def is_real(value: Any) -> bool:
    """Whether a value is an ordinary tensor of real numbers that has the memory for every one of them."""
    if type(value) not in (Tensor, torch.nn.Parameter) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    if value.is_complex() or value.is_quantized:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def is_whole(value: Any, low: int = 0, high: int = MAX_COUNT) -> bool:
    """Whether a value is a whole number within [low, high]."""
    return type(value) is int and low <= value <= high


def is_number(value: Any) -> bool:
    """Whether a value is None, or a number that is not infinite (nan: the loss of an epoch without a good step)."""
    return value is None or (type(value) in (int, float) and not abs(value) > LARGEST)


def is_plain(value: Any) -> bool:
    """Whether a value is a dict from names to None, bool, numbers and strings."""
    kinds = (type(None), bool, int, float, str)
    return isinstance(value, dict) and all(type(k) is str and type(v) in kinds for k, v in value.items())


