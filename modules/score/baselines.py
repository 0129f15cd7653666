"""Trivial predictions that a model must beat, as frames. None of them has learned anything about motion.

first_frame            the given frame, repeated
training_mean          the mean of all training frames, repeated
nearest_pose           for every pose the training frame whose pose picture is the nearest
previous_true_frame    the truth, one frame late: it sees what is to be predicted, so it is a line and not a rival
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from dataloader import Dataset_Dance, Sequence, find_root
from modules.data.pixels import to_float

RIVALS = {"first_frame": "first frame", "training_mean": "training mean", "nearest_pose": "nearest training pose"}
ORACLES = {"previous_true_frame": "previous true frame"}
CHUNK = 4096  # training poses compared at once


def trivial_predictions(sequence: Sequence, truth: Tensor, training: Dataset_Dance | None) -> dict[str, Tensor]:
    """The baselines of one sequence, (T, 3, H, W) each, frame 1 the given one. truth: (T, 3, H, W).

    training: the training set, for the two baselines that are made of it; None leaves them out.
    """
    T, first = len(truth), sequence.frames[:1]
    predictions = {"first_frame": first.expand(T, -1, -1, -1)}
    if training is not None:
        mean = training.frames.sum(dim=0, dtype=torch.float32) / (255 * len(training.frames))
        predictions["training_mean"] = torch.cat([to_float(first), mean.expand(T - 1, -1, -1, -1)])
        nearest = nearest_poses(sequence.poses[1:], training.poses)
        predictions["nearest_pose"] = torch.cat([first, training.frames[nearest]])
    predictions["previous_true_frame"] = torch.cat([truth[:1], truth[:-1]])
    return predictions


def nearest_poses(poses: Tensor, training_poses: Tensor) -> Tensor:
    """Which training pose is the nearest to each pose: (t, 3, H, W) and (N, 3, H, W) uint8 -> (t) in 0 … N-1.

    The distance is the summed square over the pictures, averaged over 2x2 pixels; the first wins a tie.
    """

    def small(pictures: Tensor) -> Tensor:
        return F.avg_pool2d(to_float(pictures), 2).flatten(1)  # (n, 3 * H/2 * W/2)

    wanted = small(poses)
    best, nearest = torch.full((len(poses),), torch.inf), torch.zeros(len(poses), dtype=torch.long)
    for start in range(0, len(training_poses), CHUNK):
        known = small(training_poses[start : start + CHUNK])
        # |a - b|^2 less |a|^2, which is the same for every b
        distance, index = (known.square().sum(dim=1) - 2 * wanted @ known.T).min(dim=1)
        closer = distance < best
        best, nearest = torch.where(closer, distance, best), torch.where(closer, index + start, nearest)
    return nearest


def training_set(root: str, height: int, width: int, **options) -> Dataset_Dance | None:
    """The training set at the size of the test, or None where DR/train isn't there. options: of Dataset_Dance."""
    if not (Path(find_root(root)) / "train" / "train_img").is_dir():
        return None
    return Dataset_Dance(root, "train", height, width, train_vi_len=1, **options)
