"""Fit one person's keypoints to another dancer and camera, as in "Everybody Dance Now" (Chan et al. 2019).

Ankles and head of a whole clip tell where a person stands and how tall they are there; all joints of the source are
moved and scaled alike until both agree with the target's. On a flat floor the ratio of two people's heights in an image
hardly depends on their distance, so one scale does where the paper has two, for near and far.
Arrays: T frames, J joints (x, y, confidence) in pixels.
"""

from typing import NamedTuple

import numpy as np

from modules.pose.skeleton import NAMES
from modules.runtime import InputError

ANKLES = [NAMES.index(f"{side}_ankle") for side in ("right", "left")]
HIPS = [NAMES.index(f"{side}_hip") for side in ("right", "left")]
HEAD = [NAMES.index(name) for name in NAMES if name.endswith(("nose", "eye", "ear"))]


class Standing(NamedTuple):
    """Where a person stands in a clip and how tall they are there, in pixels."""

    across: float  # mean position of the hips
    floor: float  # mean position of the lower ankle
    height: float  # from there to the head, standing upright


def find_standing(joints: np.ndarray, min_confidence: float, whose: str) -> Standing:
    """Measure a clip (T, J, 3). InputError where ankles and head are never seen together."""
    x, y = (np.where(joints[..., 2] >= max(min_confidence, 1e-9), joints[..., i], np.nan) for i in (0, 1))
    usable = ~(np.isnan(y[:, ANKLES]).any(axis=1) | np.isnan(y[:, HEAD]).all(axis=1) | np.isnan(x[:, HIPS]).any(axis=1))
    if usable.sum() < 2:
        raise InputError(f"{whose}: {usable.sum()} frames show both ankles, both hips and the head; expected 2 "
                         "or more, to measure the height and the floor (--no_fit does without)")
    x, y = x[usable], y[usable]
    floors, heads = y[:, ANKLES].max(axis=1), np.nanmean(y[:, HEAD], axis=1)
    across, floor = middle(x[:, HIPS].mean(axis=1)), middle(floors)
    near = np.argsort(np.abs(floors - floor), kind="stable")[: max(1, len(floors) // 2)]
    return Standing(across, floor, float(np.quantile((floors - heads)[near], 0.75)))


def middle(values: np.ndarray) -> float:
    """The mean without the outer 5 % on either side, where a detector may have erred."""
    low, high = np.quantile(values, [0.05, 0.95])
    return float(values[(values >= low) & (values <= high)].mean())


def fit_to(joints: np.ndarray, source: Standing, target: Standing) -> np.ndarray:
    """Joints (T, J, 3) of a person who stands as `source`, moved to stand as `target`. Left stays left."""
    scale = target.height / max(source.height, 1e-6)
    fitted = joints.copy()
    fitted[..., 0] = target.across + scale * (joints[..., 0] - source.across)
    fitted[..., 1] = target.floor + scale * (joints[..., 1] - source.floor)
    return fitted
