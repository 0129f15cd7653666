"""The project's own code. Names of PUBLIC can be imported from here; nothing is imported before it is asked for."""

import importlib
import sys

if sys.version_info < (3, 10):  # noqa: UP036  said before a newer word is read
    print(f"error: Python 3.10 or newer is needed; {sys.executable} is {sys.version.split()[0]}", file=sys.stderr)
    raise SystemExit(2)

BOXES = ("RGB_Encoder", "Label_Encoder", "Gaussian_Predictor", "Decoder_Fusion", "Generator")  # the course template's
PUBLIC = dict.fromkeys(BOXES, "model.template") | {
    "VAE_Model": "model.vae", "kl_annealing": "train.schedules", "predict": "score.predict",
    "to_images": "show.sequence", "save_gif": "show.video", "save_mp4": "show.video",
}


def __getattr__(name: str):
    if name in PUBLIC:
        return getattr(importlib.import_module(f"modules.{PUBLIC[name]}"), name)
    raise AttributeError(f"modules has no {name}; expected one of {', '.join(PUBLIC)}")
