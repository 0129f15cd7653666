"""Checkpoints: written atomically, read safely. The one place that knows their keys.

Ours and the course template's share `state_dict`, `lr`, `tfr` and `last_epoch`. Ours add
    config      how to build the model: the arguments of VAE_Model and the frame size
    settings    the resolved flags of the run, to compare with those of the command that goes on with it
    training    what is needed to go on exactly: training weights, EMA, history, best score, the epoch's progress
    optimizer   the state of each optimizer, by its name
`state_dict` is always the weights to predict with. The template's `optimizer` holds the model's weights: not read.

A file may come from anybody: names, types, shapes and sizes are checked before anything is built from them.
"""

import inspect
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.files import write_bytes
from modules.model.vae import VAE_Model
from modules.runtime import InputError

MODEL_FLAGS = tuple(inspect.signature(VAE_Model).parameters)  # the flags that are a model's sizes
TEMPLATE_SIZE = (32, 64)
MAX_CHANNELS, MAX_SIDE, MAX_COUNT = 1 << 14, 1 << 14, 1 << 40  # F_dim and the others; pixels; epochs and steps
LARGEST = 1e30  # of a number in the history
UNREADABLE = "not a readable checkpoint; expected a file written by torch.save"


def save_checkpoint(path: Path, contents: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain Python values."""
    buffer = io.BytesIO()  # torch.save on a file hides the reason of a failed write
    torch.save(contents, buffer)
    write_bytes(path, buffer.getbuffer())


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read one of our checkpoints or one of the course template's, without running anything that is in it."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: checkpoint not found")
    check_archive(path)
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower():
            raise InputError(
                f"{path}: holds pickled Python objects, which could run code when loaded; expected tensors and plain "
                f"values only. If you trust it, save it again with torch.save({{'state_dict': …}}, path)"
            ) from None
        raise InputError(f"{path}: {UNREADABLE}") from None
    except Exception:  # damaged bytes make the unpickler raise whatever they happen to mean
        raise InputError(f"{path}: {UNREADABLE}") from None
    if not isinstance(contents, dict) or not isinstance(contents.get("state_dict"), dict):
        raise InputError(f"{path}: holds no 'state_dict'; expected a checkpoint of this project or the course template")
    last_epoch = contents.get("last_epoch", -1)
    if not is_whole(last_epoch, -1):
        raise InputError(f"{path}: its last_epoch is not a whole number")
    if not is_plain(contents.get("settings", {})):
        raise InputError(f"{path}: its settings are not a dict of plain values")
    return contents


def check_archive(path: Path) -> None:
    """InputError unless the file is a whole zip archive that claims no more bytes than it has: no bomb is unpacked.

    The checksums are compared here, since torch.load does not: a changed bit in a weight would only show in the frames.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            claimed = sum(entry.file_size for entry in entries)
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            stored = stored and claimed <= path.stat().st_size
            whole = stored and archive.testzip() is None
    except Exception:  # see above
        raise InputError(f"{path}: {UNREADABLE} (a zip archive)") from None
    if not stored:
        raise InputError(f"{path}: its archive is compressed, or claims {claimed:,} bytes; torch.save does not")
    if not whole:
        raise InputError(f"{path}: is damaged, its checksums are wrong; expected the file as torch.save wrote it")


def read_config(contents: dict[str, Any], path: str | Path) -> tuple[dict[str, Any], tuple[int, int]]:
    """The arguments of VAE_Model and the frame size (H, W) that a checkpoint's weights are for.

    Without `config` it is the course template's; its sizes are read from the shapes of its weights. The weights are
    compared with a model without memory, so sizes that the file only claims cost nothing.
    """
    state = contents["state_dict"]
    config = contents.get("config") or {"model": template_sizes(state, path), "frame_size": TEMPLATE_SIZE}
    sizes, frame_size = (config.get(key) if isinstance(config, dict) else None for key in ("model", "frame_size"))
    if not isinstance(frame_size, (list, tuple)) or len(frame_size) != 2:
        raise InputError(f"{path}: its 'config' has no frame_size of two whole numbers")
    if not all(is_whole(side, 1, MAX_SIDE) for side in frame_size):
        raise InputError(f"{path}: its frame_size is outside 1 … {MAX_SIDE}")
    if not isinstance(sizes, dict) or not all(
        isinstance(value, str) if name in ("arch", "prior") else is_whole(value, 1, MAX_CHANNELS)
        for name, value in sizes.items()
    ):
        raise InputError(f"{path}: its 'config' does not describe a model with channels of 1 … {MAX_CHANNELS}")
    with torch.device("meta"):
        model = build_model(sizes, frame_size, f"{path}: its 'config'")
    check_weights(model, state, path)
    return model.config, (frame_size[0], frame_size[1])


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
    if any(side % model.latent_scale for side in frame_size):
        height, width = frame_size
        raise InputError(f"{source}: frames of {height}x{width}; expected multiples of {model.latent_scale}")


def load_weights(model: torch.nn.Module, state: Any, path: str | Path) -> None:
    """Load a state_dict; an InputError names the first name or shape that does not fit."""
    check_weights(model, state, path)
    model.load_state_dict(state)


def check_weights(model: torch.nn.Module, state: Any, path: str | Path) -> None:
    """InputError unless `state` holds finite tensors of exactly the model's names and shapes."""
    if not isinstance(state, dict):
        raise InputError(f"{path}: its weights are not a dict of tensors")
    expected = model.state_dict()
    for name, tensor in expected.items():
        if not isinstance(state.get(name), Tensor):
            raise InputError(f"{path}: the weight {name} is missing; it is not a checkpoint of this architecture")
        if state[name].shape != tensor.shape:
            found, wanted = tuple(state[name].shape), tuple(tensor.shape)
            raise InputError(f"{path}: the weight {name} has shape {found}; expected {wanted}")
        if not is_real(state[name]):
            raise InputError(f"{path}: the weight {name} is not a dense tensor of real numbers")
        if not torch.isfinite(state[name].float()).all():
            raise InputError(f"{path}: the weight {name} holds values that are not finite")
    extra = [name for name in state if name not in expected]
    if extra:
        raise InputError(f"{path}: the weight {extra[0]!s:.80} is unknown; it is not a checkpoint of this architecture")


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


def template_sizes(state: dict[str, Tensor], path: str | Path) -> dict[str, Any]:
    """F_dim, L_dim, N_dim and D_out_dim of a template checkpoint, from the shapes of the layers that set them."""
    layers = {
        "F_dim": "frame_transformation.6.weight",
        "L_dim": "label_transformation.4.conv2.weight",
        "N_dim": "Gaussian_Predictor.4.conv2.weight",
        "D_out_dim": "Decoder_Fusion.5.weight",
    }
    sizes: dict[str, Any] = {"arch": "template"}
    for name, layer in layers.items():
        weight = state.get(layer)
        if not isinstance(weight, Tensor) or weight.ndim != 4:
            raise InputError(f"{path}: the weight {layer} is missing; expected the course template's 209 tensors")
        sizes[name] = weight.shape[0]
    return sizes
