"""Read a run folder: what Trainer and Tester wrote into it, checked, as plain numbers. Nothing here draws.

    RUN/metrics.csv       a row per epoch (Trainer)          RUN/best.ckpt, last.ckpt   hold the resolved flags
    RUN/environment.json  machine, versions, command
    RUN/validation.json   PSNR per frame, latest validation   RUN/metrics.json or RUN/test/metrics.json   (Tester)
"""

import csv
import math
from pathlib import Path
from typing import Any, NamedTuple

from modules.files import read_json
from modules.runtime import InputError

# the columns of metrics.csv that curves need, in its order
NEEDED = ("epoch", "loss", "mse", "kl", "beta", "tfr", "lr", "val_psnr")


class Run(NamedTuple):
    """One run, for figures, tables and the report page."""

    name: str
    folder: Path
    history: list[dict[str, float | None]]  # the rows of metrics.csv; None for an empty cell
    settings: dict[str, Any] = {}  # the resolved flags; empty without a checkpoint
    test: dict[str, Any] | None = None  # the Tester's metrics.json
    test_folder: Path | None = None  # the folder of metrics.json
    scores: dict[str, list[float]] = {}  # sequence -> PSNR in dB of frames 2, 3, …
    scored_on: str = ""  # "test" or "validation": what `scores` are of


def read_run(folder: str | Path, test_folder: str | Path | None = None, name: str | None = None) -> Run:
    """Read a Trainer folder, or a Tester's, which has no history.

    test_folder: the Tester's of this run; by default RUN/test or RUN, if one of them has metrics.json.
    """
    folder = Path(folder)
    places = [folder / "test", folder] if test_folder is None else [Path(test_folder)]
    tested = next((place for place in places if (place / "metrics.json").is_file()), None)
    if test_folder is not None and not tested:
        raise InputError(f"{places[0] / 'metrics.json'}: not found; expected a folder that Tester.py wrote")
    trained = tested != folder or (folder / "metrics.csv").exists()
    history = read_history(folder / "metrics.csv") if trained else []
    test, scores, scored_on = None, {}, ""
    if tested:
        test = read_json(tested / "metrics.json")
        scores = {str(s["name"]): s["psnr_per_frame"] for s in test.get("sequences", []) if s.get("psnr_per_frame")}
        scored_on = "test"
    if not scores and (folder / "validation.json").is_file():
        scores, scored_on = read_json(folder / "validation.json")["psnr_per_frame"], "validation"
    return Run(name or folder.resolve().name, folder, history, read_settings(folder), test, tested, scores, scored_on)


def read_history(path: Path) -> list[dict[str, float | None]]:
    """The rows of metrics.csv as numbers, in order of the epochs."""
    if not path.is_file():
        raise InputError(f"{path}: not found; expected a folder that Trainer.py wrote")
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        table = csv.DictReader(file)
        missing = [name for name in NEEDED if name not in (table.fieldnames or ())]
        if missing:
            raise InputError(f"{path}: has no column {missing[0]}; expected {','.join(NEEDED)},…")
        rows = []
        for line, row in enumerate(table, start=2):
            try:
                rows.append({key: float(value) if value else None for key, value in row.items() if key})
                [float(row[name]) for name in NEEDED if name != "val_psnr"]
            except (TypeError, ValueError):
                raise InputError(f"{path}, line {line}: a number is missing; expected {','.join(NEEDED)},…") from None
    if not rows:
        raise InputError(f"{path}: holds no finished epoch yet")
    return sorted(rows, key=lambda row: row["epoch"])


def read_settings(folder: Path) -> dict[str, Any]:
    """The resolved flags of a run, from its smallest checkpoint; empty without one."""
    for name in ("best.ckpt", "last.ckpt"):
        if (folder / name).is_file():
            from modules.model.checkpoint import load_checkpoint  # imports torch, which curves do not need

            return dict(load_checkpoint(folder / name).get("settings", {}))
    return {}


def best_validation(history: list[dict[str, float | None]]) -> tuple[int, float] | None:
    """Epoch and mean PSNR in dB of the best validation, see --best_by; None without one."""
    scored = [row for row in history if row["val_psnr"] is not None and math.isfinite(row["val_psnr"])]
    judge = "val_bound" if any(row.get("val_bound") is not None for row in scored) else "val_psnr"
    best = max(scored, key=lambda row: -math.inf if row.get(judge) is None else row[judge], default=None)
    return (int(best["epoch"]), best["val_psnr"]) if best else None
