"""Trivial predictions that a model must beat, and the comparison. None of them has learned anything about motion.

first_frame            the given frame, repeated
training_mean          the mean of all training frames, repeated
nearest_pose           for every pose the training frame whose pose image is the nearest
previous_true_frame    the truth, one frame late: it sees what is to be predicted, so it is a reference and not a rival
"""

import sys

import torch
from torch import Tensor
from torch.nn import functional as F

from dataloader import Dataset_Dance
from modules.data.pixels import to_float
from modules.data.sequence import Sequence
from modules.score.metrics import all_scores, average, table_cells

RIVALS = {"first_frame": "first frame", "training_mean": "training mean", "nearest_pose": "nearest training pose"}
METHODS = {"model": "model", **RIVALS, "previous_true_frame": "previous true frame *"}  # lines of a table
CHUNK = 4096  # training poses compared at once
NAMED = 6  # sequences that a warning names


def shrink(images: Tensor) -> Tensor:
    """Means over 2x2 pixels: (n, 3, H, W) -> (n, 3 * H/2 * W/2) in [0, 1]."""
    return F.avg_pool2d(to_float(images), 2).flatten(1)


def nearest_poses(poses: Tensor, training_poses: Tensor) -> Tensor:
    """The index of the nearest training pose of each pose: (t, 3, H, W) and (N, 3, H, W) uint8 -> (t) in 0 … N-1.

    The distance is the summed square over the images, averaged over 2x2 pixels. The first wins a tie.
    """
    wanted = shrink(poses).T.contiguous()
    best, nearest = torch.full((len(poses),), torch.inf), torch.zeros(len(poses), dtype=torch.long)
    for start in range(0, len(training_poses), CHUNK):
        known = shrink(training_poses[start : start + CHUNK])
        # |a - b|^2 less |a|^2, which is the same for every b
        distance, index = torch.addmm(known.square().sum(dim=1, keepdim=True), known, wanted, alpha=-2).min(dim=0)
        closer = distance < best
        best, nearest = torch.where(closer, distance, best), torch.where(closer, index + start, nearest)
    return nearest


def compare(
    sequences: list[Sequence], predicted: list[Tensor], truth: list[Tensor | None], training: Dataset_Dance | None,
    trivial: bool = True,
) -> dict[str, dict[str, dict]]:
    """All scores of the model and of the trivial baselines, of every sequence whose true frames are known:
    name -> {"model": scores, baseline: scores, …}, in the order of METHODS.

    predicted: (samples, T, 3, H, W) each; truth: (T, 3, H, W) or None; trivial: with baselines. training: None leaves
    out the two baselines of the training set.
    """
    known = [item for item in zip(sequences, predicted, truth, strict=True) if item[2] is not None]
    nearest, mean = [None] * len(known), None
    if trivial and training is not None and known:  # of all sequences at once: the training set is read once
        poses = [sequence.poses[1:] for sequence, _, _ in known]
        places = nearest_poses(torch.cat(poses), training.poses)
        nearest = training.frames[places].split([len(x) for x in poses])
        mean = training.frames.sum(dim=0, dtype=torch.float32) / (255 * len(training.frames))
    compared = {}
    for (sequence, frames, true_frames), nearest_frames in zip(known, nearest, strict=True):
        first, predictions = sequence.frames[:1], {"model": frames}
        if trivial:
            predictions["first_frame"] = first[None].expand(1, len(true_frames), -1, -1, -1)
            if nearest_frames is not None:
                means = mean.expand(len(nearest_frames), -1, -1, -1)
                predictions["training_mean"] = torch.cat([to_float(first), means])[None]
                predictions["nearest_pose"] = torch.cat([first, nearest_frames])[None]
            predictions["previous_true_frame"] = torch.cat([true_frames[:1], true_frames[:-1]])[None]
        compared[sequence.name] = {key: all_scores(prediction, true_frames) for key, prediction in predictions.items()}
    return compared


def with_mean(compared: dict[str, dict[str, dict]]) -> dict[str, dict[str, dict]]:
    """The same and, of several sequences, their `mean`."""
    if len(compared) < 2:
        return compared
    methods = next(iter(compared.values()))
    return compared | {"mean": {key: average([rows[key] for rows in compared.values()]) for key in methods}}


def score_table(compared: dict[str, dict[str, dict]]) -> str:
    """The text table of all sequences, see compare."""
    cells, left_out = table_cells([row for rows in compared.values() for row in rows.values()])
    widths = [max(6, len(cell.title)) for cell in cells]
    head = "".join(f" {cell.title:>{width}}" for cell, width in zip(cells, widths, strict=True))
    lines = [f"{'sequence':<9} {'':<22}{head}"]
    for sequence, rows in with_mean(compared).items():
        for i, (key, row) in enumerate(rows.items()):
            values = "".join(f" {cell.text(row):>{width}}" for cell, width in zip(cells, widths, strict=True))
            lines.append(f"{sequence if i == 0 else '':<9} {METHODS[key]:<22}{values}")
    lines.append("PSNR in dB; @k: of the k-th predicted frame. * sees the true frames: a reference, not a rival.")
    return "\n".join([*lines, left_out] if left_out else lines)


def warn_if_below_baselines(compared: dict[str, dict[str, dict]]) -> None:
    """One line on stderr for every trivial baseline that the model's mean PSNR does not reach, with some sequences."""
    for key, name in RIVALS.items():
        below = [
            f"sequence {sequence}: {rows['model']['psnr']:.2f} dB is below {rows[key]['psnr']:.2f} dB"
            for sequence, rows in compared.items()
            if key in rows and not rows["model"]["psnr"] >= rows[key]["psnr"]
        ]
        if below:
            more = f" and {len(below) - NAMED} more" * (len(below) > NAMED)
            print(f"warning: {', '.join(below[:NAMED])}{more}, a trivial baseline: {name}", file=sys.stderr)
