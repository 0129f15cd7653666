"""Checkpoints: written whole or not at all, read without running code from the file.

Ours and the course template's share `state_dict`, `lr`, `tfr` and `last_epoch`. Ours add
    config      the frame size, and the arguments of VAE_Model for people to read
    settings    the resolved flags of the run, to compare with those of the command that resumes it
    training    what is needed to resume exactly: training weights, EMA, history, best score, the epoch's progress
    optimizer   the state of each optimizer, by its name
`state_dict` holds the weights to predict with. The template's `optimizer` holds the model's weights and is not read.
The arguments of VAE_Model are always read from the names and shapes of the weights.
"""

import argparse
import contextlib
import inspect
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules.files import write_bytes
from modules.model import ARCHITECTURES, PRIORS
from modules.model.vae import VAE_Model, architecture
from modules.runtime import InputError

MODEL_FLAGS = tuple(name for name in inspect.signature(VAE_Model).parameters if name != "levels")
MAX_SIDE, MAX_COUNT = 1 << 14, 1 << 40  # of a frame in pixels; of epochs and steps
OUTER_KEYS = ("state_dict", "model_state_dict", "model")  # of the dict that holds the weights
WRAPPERS = ("module.", "_orig_mod.")  # put before the names of weights by DataParallel and torch.compile
# beside the weights torch shall also let through flags and numpy's numbers
SCALAR = np.float64(0).__reduce__()[0]
SAFE = [argparse.Namespace, np.dtype, *(type(np.dtype(kind)) for kind in "?" + np.typecodes["AllInteger"] + "efdg"),
        (SCALAR, "numpy.core.multiarray.scalar"), (SCALAR, "numpy._core.multiarray.scalar")]
SAVE_AGAIN = "save it again with torch.save({'state_dict': model.state_dict()}, path)"


def save_checkpoint(path: Path, contents: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain Python values."""
    buffer = io.BytesIO()  # torch.save on a file hides the reason of a failed write
    torch.save(contents, buffer)
    write_bytes(path, buffer.getbuffer())


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint. InputError where it is none.

    `state_dict` holds the weights under the model's own names; a line says where they were if not there. `last_epoch`
    is a whole number, or missing.
    """
    path = Path(path)
    contents = read_file(path)
    state, found = find_weights(contents, path)
    config = contents.get("config")
    if not isinstance(config, dict) or "frame_size" not in config:  # of another program
        config = {"frame_size": (32, 64)}
        found.append("no frame size is in it: 32x64, or --frame_H and --frame_W")
    contents = contents | {"state_dict": state, "config": config}
    if found:
        print(f"{path}: {'; '.join(found)}")
    if not is_whole(contents.get("last_epoch"), -1):
        contents.pop("last_epoch", None)
    if not isinstance(contents.get("settings"), dict):  # of another program
        contents.pop("settings", None)
    return contents


def read_file(path: Path) -> dict[str, Any]:
    """The dict of tensors and plain values in a file of torch.save."""
    if path.is_dir():
        hint = f"use {path / 'best.ckpt'}" if (path / "best.ckpt").is_file() else "no best.ckpt is in it"
        raise InputError(f"{path}: is a folder, expected a checkpoint; {hint}")
    if not os.path.isfile(path):
        raise InputError(f"{path}: checkpoint not found")
    try:
        if zipfile.is_zipfile(path) and zipfile.ZipFile(path).testzip():
            raise InputError(f"{path}: is damaged, its checksums are wrong; expected the file as torch.save wrote it")
        with torch.serialization.safe_globals(SAFE):
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception:  # damaged bytes make a reader raise any kind of error
        with open(path, "rb") as file:
            found = f"{os.path.getsize(path):,} bytes that begin with {file.read(16)!r}"
        with contextlib.suppress(Exception):
            unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            found = f"Python objects, which could run code when loaded: {listed(unknown)}" if unknown else found
        raise InputError(f"{path}: not a readable checkpoint; expected tensors and plain values from torch.save, the "
                         f"whole file; found {found}; {SAVE_AGAIN}") from None
    if not isinstance(contents, dict):
        raise InputError(f"{path}: holds a {type(contents).__name__}, expected a dict; {SAVE_AGAIN}")
    return contents


def find_weights(contents: dict[str, Any], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The weights under the model's own names, and in words where they were if not in a plain `state_dict`."""
    key = next((key for key in OUTER_KEYS if isinstance(contents.get(key), dict)), None)
    found = [] if key == "state_dict" else [f"weights found under '{key}'" if key else "weights without an outer key"]
    state = {str(name): value for name, value in (contents[key] if key else contents).items()}
    for wrapper in WRAPPERS:
        if any(wrapper in name for name in state):
            found.append(f"'{wrapper}' removed from their names")
            state = {name.replace(wrapper, ""): value for name, value in state.items()}
    if not any(name.startswith("frame_transformation.") for name in state):
        raise InputError(f"{path}: holds no weights of this model; expected names such as frame_transformation.0.…, in "
                         f"a dict under {', '.join(OUTER_KEYS)} or at the top; found {listed(state)}")
    return state, found


def read_config(contents: dict[str, Any], path: str | Path) -> tuple[dict[str, Any], tuple[int, int]]:
    """The arguments of VAE_Model and the frame size (H, W) that a checkpoint's weights are for."""
    state, size = contents["state_dict"], contents["config"]["frame_size"]
    if not isinstance(size, (list, tuple)) or len(size) != 2 or not all(is_whole(x, 1, MAX_SIDE) for x in size):
        raise InputError(f"{path}: its frame_size is not two whole numbers of 1 … {MAX_SIDE}")
    for name, value in state.items():
        if not is_real(value):
            raise InputError(f"{path}: the weight {name} is not a dense tensor of real numbers")
    for arch in ARCHITECTURES:
        try:
            sizes = architecture(arch).sizes_of(state)
            prior = list(PRIORS)[sizes.pop("prior_frames")]
        except (KeyError, IndexError):  # another architecture's
            continue
        return {"arch": arch, "prior": prior} | sizes, tuple(size)
    raise InputError(f"{path}: its weights are of no known architecture ({', '.join(ARCHITECTURES)}); found "
                     f"{listed(state)}")


def model_from_checkpoint(contents: dict[str, Any], path: str | Path) -> tuple[VAE_Model, tuple[int, int]]:
    """Build the model that a checkpoint's weights are for and load them. Returns it with its frame size (H, W)."""
    config, frame_size = read_config(contents, path)
    model = build_model(config, frame_size, f"{path}: its weights")
    load_weights(model, contents["state_dict"], path)
    model.bounded = bool(contents["config"].get("bounded"))
    return model, frame_size


def build_model(sizes: dict[str, Any], frame_size: tuple[int, int], source: str) -> VAE_Model:
    """VAE_Model(**sizes) for frames (H, W); an InputError says what is wrong with `source`, which gave the sizes."""
    try:
        model = VAE_Model(**sizes)
        if not all(parameter.numel() for parameter in model.parameters()):
            raise ValueError("a layer has no channels: a size is too small")
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"{source}: no model has these sizes ({error})") from None
    check_frame_size(model, frame_size, source)
    return model


def check_frame_size(model: VAE_Model, frame_size: tuple[int, int], source: str) -> None:
    """InputError if the model cannot make frames (H, W)."""
    scale = model.latent_scale
    if any(side % scale for side in frame_size):
        height, width = frame_size
        near = "x".join(str(max(1, round(side / scale)) * scale) for side in frame_size)
        raise InputError(f"{source}: frames of {height}x{width}; expected multiples of {scale}, such as {near}")


def load_weights(model: torch.nn.Module, state: dict[str, Any], path: str | Path) -> None:
    """Load a state_dict. An InputError names the first weight that is missing, unknown, of another shape or not
    finite."""
    expected = model.state_dict()
    for name, tensor in expected.items():
        if name not in state:
            found = listed(state)
            raise InputError(f"{path}: the weight {name} is missing; found {found}, expected {listed(expected)}")
        if not is_real(state[name]) or state[name].shape != tensor.shape:
            found = tuple(getattr(state[name], "shape", ()))
            raise InputError(f"{path}: the weight {name} has shape {found}; expected {tuple(tensor.shape)}")
        if not torch.isfinite(state[name].float()).all():
            raise InputError(f"{path}: the weight {name} holds values that are not finite")
    unknown = [name for name in state if name not in expected]
    if unknown:
        raise InputError(f"{path}: {listed(unknown)}: not a weight of this architecture; found {len(state)} weights, "
                         f"expected {len(expected)}")
    model.load_state_dict(state)


def listed(names: Any) -> str:
    """The first few of some names, and how many there are: "a, b, c … (26)"."""
    names = ["".join(c if c.isprintable() else "?" for c in str(name)[:60]) for name in names]
    return f"{', '.join(names[:3])} … ({len(names)})" if len(names) > 3 else ", ".join(names) or "nothing"


def is_real(value: Any) -> bool:
    """Whether a value is an ordinary tensor of real numbers that has the memory for every one of them."""
    if type(value) not in (Tensor, torch.nn.Parameter) or value.layout != torch.strided or value.is_complex():
        return False
    return not value.is_quantized and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def is_whole(value: Any, low: int = 0, high: int = MAX_COUNT) -> bool:
    """Whether a value is a whole number within [low, high]."""
    return type(value) is int and low <= value <= high
