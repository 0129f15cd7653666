"""The files of predicted sequences, for both programs: exact frames, strips, GIFs, videos and curves of PSNR.

`sequence_files` says which files one sequence gets. `write_files` writes them side by side in threads: ffmpeg, zlib and
numpy's sorts release Python's lock.
"""

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from torch import Tensor

from modules.data.layout import FRAMES_PER_SECOND
from modules.data.pixels import to_uint8
from modules.data.sequence import Sequence
from modules.files import write_bytes, write_json
from modules.progress import Progress
from modules.runtime import InputError
from modules.score.baselines import compare, warn_if_below_baselines
from modules.score.metrics import score
from modules.show.curves import draw_scores
from modules.show.panels import SCALE, STRIP_SCALE, WIDEST, Panels, PredictedSequence
from modules.show.video import save_gif, save_mp4

VALIDATION_VIDEOS = 4  # the first validation sequences: training does not wait for the files of more


def to_images(frames: Tensor) -> np.ndarray:
    """(T, 3, H, W) uint8 or float [0, 1] -> (T, H, W, 3) uint8. Values outside are clipped, nan is white."""
    frames = frames.nan_to_num(1.0) if frames.is_floating_point() else frames
    return np.ascontiguousarray(to_uint8(frames).permute(0, 2, 3, 1).cpu().numpy())


def images_of(
    sequence: Sequence, frames: Tensor, truth: Tensor | None, psnr: list | None, rate: float = FRAMES_PER_SECOND
) -> PredictedSequence:
    """One predicted sequence as arrays. frames, truth: (T, 3, H, W). psnr: T-1 values in dB. rate: frames a second."""
    truth = None if truth is None else to_images(truth)
    return PredictedSequence(to_images(frames), to_images(sequence.poses), truth, psnr, rate=rate)


def sequence_files(
    predicted: PredictedSequence, panel: Path, gifs: dict[Path, np.ndarray], kind: str, video: bool = True
) -> list[Callable[[], str | None]]:
    """One task for each file of a sequence; a task returns a warning or nothing.

    panel: stem of the strip <panel>.png and of the video <panel>.mp4. gifs: path -> (T, H, W, 3) uint8.
    kind: --pictures, "all", "strips" (no GIF, no video) or "none".
    """
    tasks = []
    if kind == "all" and video:
        tasks.append(partial(save_mp4, panel.with_name(panel.name + ".mp4"), Panels(predicted), predicted.rate))
    if kind != "none":
        tasks.append(partial(write_strip, panel.with_name(panel.name + ".png"), predicted))
    if kind == "all":
        tasks += [partial(save_gif, path, images, predicted.rate) for path, images in gifs.items()]
    return tasks


def draw_test(
    root: Path, results: Iterable[tuple[Sequence, Tensor, Tensor | None, Tensor | None]], kind: str, extra_gif: bool,
    rate: float,
) -> None:
    """Write the Tester's files to root/seq<name>: frames.npz in any case, the others as --pictures (kind) asks.

    results: sequence, frames (samples, T, 3, H, W), truth (T, 3, H, W) or None, PSNR (samples, T-1) or None. The first
    sample is shown. extra_gif: also root/pred_seq<name>.gif. rate: frames a second.
    """
    exact, tasks, figures = [], [], []
    for sequence, frames, truth, scores in results:
        folder = root / f"seq{sequence.name}"
        predicted = images_of(sequence, frames[0], truth, None if scores is None else scores[0].tolist(), rate)
        gifs = {folder / "pred_seq.gif": predicted.prediction, folder / "pose.gif": predicted.pose}
        if truth is not None:
            gifs[folder / "ground_truth.gif"] = predicted.truth
        if extra_gif:
            gifs[root / f"pred_seq{sequence.name}.gif"] = predicted.prediction
        exact.append(partial(write_frames, folder / "frames.npz", predicted))
        tasks += sequence_files(predicted, folder / "panel", gifs, kind)
        if kind == "all":
            scale = max(1, min(SCALE, WIDEST // predicted.prediction.shape[2]))
            enlarged = (frame.repeat(scale, 0).repeat(scale, 1) for frame in predicted.prediction)
            tasks.append(partial(save_mp4, folder / "pred_seq.mp4", enlarged, rate))
        if scores is not None and kind != "none":
            per_frame = {sequence.name: scores.mean(dim=0).tolist()}
            figures.append(partial(draw_scores, per_frame, folder / "psnr_per_frame.png", "sequence"))
    write_files(exact + tasks, figures)


def score_validation(
    root: Path, epoch: int, sequences: list[Sequence], predicted: list[Tensor], warn: bool
) -> tuple[float, dict[str, list[float]]]:
    """Score predicted sequences, each (1, T, 3, H, W) in [0, 1], and write root/validation.json.

    warn: compare with the first frame repeated. Returns the mean over the sequences of their mean PSNR, and the PSNR of
    every predicted frame by sequence, both in dB.
    """
    scores = {s.name: score(p, s.frames)[0].tolist() for s, p in zip(sequences, predicted, strict=True)}
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    average = sum(means.values()) / len(means)
    print(f"epoch {epoch}: validation PSNR {average:.3f} dB")
    write_json(root / "validation.json", {"epoch": epoch, "psnr_per_frame": scores})
    if warn:
        warn_if_below_baselines(compare(sequences, predicted, [s.frames for s in sequences], training=None))
    return average, scores


def draw_validation(
    root: Path, epoch: int, sequences: list[Sequence], predicted: list[Tensor], scores: dict[str, list[float]],
    train_vi_len: int, kind: str, keep_all: bool, video: bool, rate: float,
) -> None:
    """Write the files of the first VALIDATION_VIDEOS sequences to root/figures. scores: of score_validation.

    kind: --pictures. keep_all: the epoch is part of the names, so that files of other epochs stay. video: with MP4s,
    of `rate` frames a second.
    """
    if kind == "none":
        return
    figures, ending, tasks = root / "figures", f"_epoch={epoch}" if keep_all else "", []
    for sequence, frames in list(zip(sequences, predicted, strict=True))[:VALIDATION_VIDEOS]:
        shown = images_of(sequence, frames[0], sequence.frames, scores[sequence.name], rate)
        gifs = {figures / f"validation{ending}.gif": shown.prediction} if sequence is sequences[0] else {}
        tasks += sequence_files(shown, figures / f"{sequence.name}{ending}", gifs, kind, video)
    if video and len(sequences) > VALIDATION_VIDEOS:
        print(f"Images of the first {VALIDATION_VIDEOS} of {len(sequences)} validation sequences: {figures}")
    write_files(tasks, [partial(draw_scores, scores, figures / "psnr_per_frame.png", "validation", train_vi_len)])


def write_strip(path: Path, predicted: PredictedSequence) -> None:
    """Ten moments of a sequence as a PNG."""
    write_png(path, Panels(predicted, STRIP_SCALE).strip())


def write_png(path: Path, image: np.ndarray) -> None:
    """An image (H, W, 3) uint8."""
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def write_frames(path: Path, predicted: PredictedSequence) -> None:
    """The exact frames as compressed arrays for numpy.load: prediction, pose and, if known, truth."""
    arrays = {"prediction": predicted.prediction, "pose": predicted.pose}
    if predicted.truth is not None:
        arrays["truth"] = predicted.truth
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getbuffer())


def write_files(tasks: list[Callable[[], str | None]], figures: Iterable[Callable[[], None]] = ()) -> None:
    """Run all tasks in threads, and the figures in this thread, since matplotlib is not made for several.

    One line for each different warning. InputError if a file could not be written, after all others have been. An
    exception out of a signal handler leaves out the files that have not begun.
    """
    pool = ThreadPoolExecutor()
    try:
        running = [pool.submit(attempt, task) for task in tasks]
        results = [attempt(figure) for figure in figures]
        with Progress("images", len(tasks), "file", leave=False) as bar:
            for done in as_completed(running):
                results.append(done.result())
                bar.update()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    for warning in dict.fromkeys(warning for warning, _ in results if warning):
        print(f"warning: {warning}", file=sys.stderr)
    failures = [failure for _, failure in results if failure]
    if failures:
        raise InputError(failures[0] + (f" (and {len(failures) - 1} others)" if len(failures) > 1 else ""))


def attempt(task: Callable[[], str | None]) -> tuple[str, str]:
    """Run one task: its warning, and why its file was not written."""
    try:
        return task() or "", ""
    except (InputError, OSError) as error:
        return "", str(error)
