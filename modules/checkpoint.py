"""Checkpoints: written atomically, read safely. The one place that knows their keys.

Ours and the course template's share `state_dict`, `lr`, `tfr` and `last_epoch`. Ours add
    config      how to build the model: the arguments of VAE_Model and the frame size
    settings    the resolved flags of the run, for people to read
    training    what is needed to go on exactly: training weights, EMA, optimizer, step, history, best score
`state_dict` is always the weights to predict with. The template's `optimizer` holds the model's weights: not read.
"""

import os
import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from modules.runtime import InputError
from modules.vae import VAE_Model

TEMPLATE_SIZE = (32, 64)


def write_atomically(path: Path, write) -> None:
    """Call `write(file)` on a temporary file beside `path`, sync it, then move it there: whole or not at all."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise InputError(f"{path}: cannot be written ({error}); what was there before is kept") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def save_checkpoint(path: Path, contents: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain Python values."""
    write_atomically(path, lambda file: torch.save(contents, file))


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read one of our checkpoints or one of the course template's, without running anything that is in it."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: checkpoint not found")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower():
            raise InputError(
                f"{path}: holds pickled Python objects, which could run code when loaded; expected tensors and plain "
                f"values only. If you trust it, save it again with torch.save({{'state_dict': …}}, path)"
            ) from None
        raise InputError(f"{path}: not a readable checkpoint; expected a file written by torch.save") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        raise InputError(f"{path}: not a readable checkpoint; expected a file written by torch.save") from None
    if not isinstance(contents, dict) or not isinstance(contents.get("state_dict"), dict):
        raise InputError(f"{path}: holds no 'state_dict'; expected a checkpoint of this project or the course template")
    return contents


def model_from_checkpoint(contents: dict[str, Any], path: str | Path) -> tuple[VAE_Model, tuple[int, int]]:
    """Build the model that a checkpoint describes and load its weights. Returns it with its frame size (H, W).

    A checkpoint without `config` is the course template's; its sizes are read from the shapes of its weights.
    """
    state = contents["state_dict"]
    config = contents.get("config")
    if config is None:
        config = {"model": template_sizes(state, path), "frame_size": TEMPLATE_SIZE}
    try:
        model = VAE_Model(**config["model"])
        height, width = config["frame_size"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its 'config' does not describe a model ({error})") from None
    load_weights(model, state, path)
    return model, (height, width)


def load_weights(model: torch.nn.Module, state: dict[str, torch.Tensor], path: str | Path) -> None:
    """Load a state_dict; an InputError names the first name or shape that does not fit."""
    expected = model.state_dict()
    for name, tensor in expected.items():
        if not isinstance(state.get(name), torch.Tensor):
            raise InputError(f"{path}: the weight {name} is missing; it is not a checkpoint of this architecture")
        if state[name].shape != tensor.shape:
            found, wanted = tuple(state[name].shape), tuple(tensor.shape)
            raise InputError(f"{path}: the weight {name} has shape {found}; expected {wanted}")
        if not torch.isfinite(state[name].float()).all():
            raise InputError(f"{path}: the weight {name} holds values that are not finite")
    extra = sorted(set(map(str, state)) - set(expected))
    if extra:
        raise InputError(f"{path}: the weight {extra[0]} is unknown; it is not a checkpoint of this architecture")
    model.load_state_dict(state)


def template_sizes(state: dict[str, torch.Tensor], path: str | Path) -> dict[str, Any]:
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
        if not isinstance(weight, torch.Tensor) or weight.ndim != 4:
            raise InputError(f"{path}: the weight {layer} is missing; expected the course template's 209 tensors")
        sizes[name] = weight.shape[0]
    return sizes
