"""Write a run's report: one HTML page that needs no network and no other file.

    python scripts/report.py runs/best                        -> runs/best/report.html (with runs/best/test, if there)
    python scripts/report.py runs/best --test runs/best_test

Images come from the exact frames that Tester.py wrote (frames.npz), scores from its metrics.json, and curves from
metrics.csv.
"""

import argparse
import base64
import html
import io
import json
import math
import re
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from modules.files import finite, read_json, write_bytes
from modules.runtime import InputError, run_program
from modules.score.baselines import METHODS, RIVALS, with_mean
from modules.score.metrics import DEFINITIONS, table_cells
from modules.show.curves import draw_curves
from modules.show.panels import ERROR_FULL, ERROR_LEGEND, HEAT
from modules.show.runs import Run, best_validation, read_run

MEGABYTES = 6.5  # of all frames as PNG; a sheet with more than its share of them is a JPEG
WIDEST = 128  # px: wider frames are shrunk
CURVES = {
    "val_psnr": "Validation PSNR over the epochs", "psnr_per_frame": "PSNR per frame", "loss_linear": "Training loss",
    "loss_log": "Training loss, log axis", "beta": "KL weight", "tfr": "Teacher forcing ratio", "lr": "Learning rate",
}


def main() -> None:
    parser = argparse.ArgumentParser("report.py", description="Write a self-contained report.html of a run.")
    parser.add_argument("run", help="a folder that Trainer.py wrote")
    parser.add_argument("--test", help="the folder that Tester.py wrote (default: RUN/test, where there is one)")
    parser.add_argument("--out", help="the page (default: RUN/report.html)")
    args = parser.parse_args()
    page = build_page(read_run(args.run, args.test)).encode()
    out = Path(args.out or Path(args.run) / "report.html")
    write_bytes(out, page)
    print(f"Wrote {out}, {len(page) / 1e6:.1f} MB")


def build_page(run: Run) -> str:
    """The whole page as text."""
    tested = (run.test or {}).get("sequences", [])
    most = MEGABYTES * 1e6 / max(1, 3 * len(tested))
    sequences = [encode(s, read_frames(run.test_folder / f"seq{s['name']}" / "frames.npz"), most) for s in tested]
    machine = run.folder / "environment.json"
    data = {"sequences": sequences, "heat": HEAT.tolist(), "error_full": ERROR_FULL}
    parts = {
        "title": html.escape(f"Run {run.name}"),
        "summary": html.escape(summarise(run)),
        "players": "".join(map(player, sequences))
        or "<p>No test sequences: run Tester.py and give its folder with <code>--test</code>.</p>",
        "scores": score_table(run.test),
        "curves": curves(run),
        "configuration": definition_list(run.settings) or "<p>The folder holds no checkpoint with its settings.</p>",
        "environment": definition_list(read_json(machine)) if machine.is_file()
        else "<p>The folder holds no environment.json.</p>",
        "data": json.dumps(finite(data), allow_nan=False).replace("<", "\\u003c"),
    }
    template = (Path(__file__).parent / "report_template.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)


def summarise(run: Run) -> str:
    """The run's results in a sentence or two."""
    words = f"{len(run.history)} epochs."
    if best := best_validation(run.history):
        words += f" Best validation at epoch {best[0]}: PSNR {best[1]:.2f} dB."
    if run.test and run.test.get("avg_psnr") is not None:
        latent = str(run.test.get("latent", "unknown"))
        words += f" Test PSNR {run.test['avg_psnr']:.2f} dB, z = {latent}."
        if "samples" in latent:
            words += " PSNR is their mean; the images show the first."
    return words


def read_frames(path: Path) -> dict[str, np.ndarray]:
    """truth (if known), pose and prediction of one frames.npz, (T, H, W, 3) uint8 each, at most WIDEST wide."""
    try:
        with np.load(path) as arrays:
            frames = {name: arrays[name] for name in ("truth", "pose", "prediction") if name in arrays.files}
        _, height, width, _ = frames["prediction"].shape
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected what Tester.py wrote") from None
    if width <= WIDEST:
        return frames
    size = (WIDEST, max(1, round(height * WIDEST / width)))
    return {name: np.stack([np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BILINEAR)) for x in images])
            for name, images in frames.items()}


def encode(sequence: dict, frames: dict[str, np.ndarray], most: float) -> dict:
    """What the page's player needs: the Tester's scores, and all frames of a kind in one sheet, see encode_sheet."""
    count, height, width, _ = frames["prediction"].shape
    columns = max(1, math.ceil(math.sqrt(count * height / width)))
    psnr = finite(sequence["psnr_per_frame"]) or []
    return {"name": str(sequence["name"]), "frames": count, "height": height, "width": width, "columns": columns,
            "psnr": psnr if any(value is not None for value in psnr) else None,
            "sprites": {kind: encode_sheet(images, columns, most) for kind, images in frames.items()}}


def encode_sheet(frames: np.ndarray, columns: int, most: float) -> str:
    """All frames (T, H, W, 3) row by row in one image, as a data URL: PNG, or JPEG where a PNG has more bytes."""
    T, height, width, _ = frames.shape
    sheet, png, jpeg = Image.new("RGB", (columns * width, math.ceil(T / columns) * height)), io.BytesIO(), io.BytesIO()
    for t, frame in enumerate(frames):
        sheet.paste(Image.fromarray(frame), (t % columns * width, t // columns * height))
    sheet.save(png, "png", optimize=True)
    if png.tell() <= most:
        return data_url("image/png", png.getvalue())
    sheet.save(jpeg, "jpeg", quality=80, subsampling=0)
    return data_url("image/jpeg", jpeg.getvalue())


def data_url(kind: str, contents: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(contents).decode()}"


def player(sequence: dict) -> str:
    """The HTML of one sequence's player."""
    kinds = [kind for kind in ("truth", "pose", "prediction") if kind in sequence["sprites"]]
    captions = {"prediction": "prediction (green: given, orange: generated)", "error": ERROR_LEGEND}
    kinds += ["error"] if "truth" in kinds else []
    size = f'width="{sequence["width"]}" height="{sequence["height"]}"'
    images = "".join(f'<figure><canvas data-name="{kind}" {size}></canvas>'
                     f"<figcaption>{captions.get(kind, kind)}</figcaption></figure>" for kind in kinds)
    label = html.escape(f"Sequence {sequence['name']}")
    return (
        f'<section class="player" aria-label="{label}"><h3>{label}</h3><div class="images">{images}</div>'
        f'<div class="controls"><button type="button">Play</button><input type="range" min="1" '
        f'max="{sequence["frames"]}" value="1" aria-label="{label}: frame"><output></output></div>'
        + '<div class="plot"></div>' * bool(sequence["psnr"]) + "</section>"
    )


def score_table(test: dict | None) -> str:
    """The scores of the model and of the baselines as an HTML table. A rival that beats the model is marked."""
    scored = [s for s in (test or {}).get("sequences", []) if s.get("psnr") is not None]
    if not scored:
        return "<p>No scores: Tester.py had no true frames to compare with.</p>"
    groups = {str(s["name"]): {"model": s, **s.get("baselines", {})} for s in scored}
    columns, left_out = table_cells([row for rows in groups.values() for row in rows.values()])
    lines = []
    for sequence, rows in with_mean(groups).items():
        for key, row in rows.items():
            better = key in RIVALS and (row["psnr"] or 0) > (rows["model"]["psnr"] or 0)
            mark, name = ("name low", f"{METHODS[key]} ▲") if better else ("name", METHODS[key])
            title = html.escape(sequence) if key == "model" else ""
            values = "".join(f"<td>{column.text(row, '–')}</td>" for column in columns)
            lines.append(f'<tr class="{key}"><td>{title}</td><td class="{mark}">{name}</td>{values}</tr>')
    head = "".join(f"<th>{column.title}</th>" for column in columns)
    kaggle = test.get("psnr_kaggle") or {}
    extra = ", ".join(f"{key} {value:.3f} dB" for key, value in kaggle.items() if value is not None)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Scores"><table><thead><tr><th></th>'
        f'<th class="name">what</th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
        '<p class="faint">▲ a trivial baseline above the model. @k: PSNR of the k-th predicted frame. * sees the true '
        f"frames: a reference, not a rival.{f' Kaggle: {extra}.' if extra else ''} {left_out}</p>"
        f"<details><summary>Definitions</summary>{definition_list(DEFINITIONS)}</details>"
    )


def curves(run: Run) -> str:
    """The curves as embedded images."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = {path.stem: path.read_bytes() for path in draw_curves([run], Path(folder))}
    return "".join(f'<figure><img src="{data_url("image/png", drawn[name])}" alt="{title}"></figure>'
                   for name, title in CURVES.items() if name in drawn)


def definition_list(values: dict) -> str:
    """Names and values in columns."""
    items = "".join(f"<div><dt>{html.escape(str(key))}</dt><dd>{html.escape(str(value))}</dd></div>"
                    for key, value in values.items())
    return f"<dl>{items}</dl>" if items else ""


if __name__ == "__main__":
    run_program(main)
