"""TensorBoard, behind --tensorboard: the numbers of metrics.csv, the strips and the figures of a run, once an epoch."""

from pathlib import Path

import numpy as np
from PIL import Image

from modules.runtime import InputError
from modules.show.curves import OF_A_RUN


class Board:
    """Writes event files to <root>/tensorboard. tags: column of metrics.csv -> tag in TensorBoard. first_epoch: what an
    earlier run wrote from there on is replaced."""

    def __init__(self, root: Path, tags: dict[str, str], first_epoch: int = 0):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError("--tensorboard: the package is not installed; run: pip install tensorboard") from None
        self.figures, self.tags = root / "figures", tags
        self.writer = SummaryWriter(root / "tensorboard", purge_step=first_epoch)

    def write(self, row: dict, sequences: list[str]) -> None:
        """One epoch: its row of metrics.csv, and after a validation the strips of `sequences` and the curves."""
        epoch = int(row["epoch"])
        for name, tag in self.tags.items():
            if row.get(name) is not None:
                self.writer.add_scalar(tag, row[name], epoch)
        if row["val_psnr"] is not None:
            images = {f"curve/{name}": name for name in OF_A_RUN}
            for name in sequences:  # with --store_visualization every validation has a file of its own
                own = f"{name}_epoch={epoch}"
                images[f"strip/{name}"] = own if (self.figures / f"{own}.png").is_file() else name
            for tag, name in images.items():
                if (self.figures / f"{name}.png").is_file():
                    with Image.open(self.figures / f"{name}.png") as image:
                        self.writer.add_image(tag, np.asarray(image.convert("RGB")), epoch, dataformats="HWC")
        self.writer.flush()
