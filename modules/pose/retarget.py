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
LOWEST = 16  # power of the row: the weight of the legs' ink, of which the lowest is the feet's
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
    return standing_of(x[:, HIPS].mean(axis=1), y[:, ANKLES].max(axis=1), np.nanmean(y[:, HEAD], axis=1))


def middle(values: np.ndarray) -> float:
    """The mean without the outer 5 % on either side, where a detector may have erred."""
    low, high = np.quantile(values, [0.05, 0.95], method="nearest")
    return float(values[(values >= low) & (values <= high)].mean())


def standing_in(poses: list[np.ndarray]) -> Standing:
    """Measure pose images [T] of (h, w, 3) uint8 in the palette "course".

    The torso is blue, only legs and feet lack blue light, only eyes and ears lack green light alone. A place is a mean
    over pixels, so it is finer than one of them. InputError where torso, feet and head are not seen.
    """
    red, green, blue = np.moveaxis(255.0 - np.array(poses), -1, 0)  # light that is missing, (T, h, w)
    rows, columns = (np.arange(side) + 0.5 for side in red.shape[1:])
    torso = np.maximum(np.minimum(red, green) - blue, 0)
    legs = np.maximum(blue - np.minimum(red, green), 0).sum(axis=2)  # (T, h)
    waist = torso.sum(axis=2) @ rows / np.maximum(torso.sum(axis=(1, 2)), 1)
    head = np.maximum(green - np.maximum(red, blue), 0).sum(axis=2) * (rows < waist[:, None])  # hands have this colour
    usable = np.all([part.sum(axis=1) > 16 for part in (torso.sum(axis=2), legs, head)], axis=0)
    if usable.sum() < 2:
        raise InputError(f"pose images: {usable.sum()} of {len(poses)} show torso, legs and head in the course's "
                         "colours; expected the course's labels, or a data set with keypoints.json")
    parts = (torso.sum(axis=1), columns), (legs * (rows / rows[-1]) ** LOWEST, rows), (head, rows)
    return standing_of(*(ink[usable] @ places / ink[usable].sum(axis=1) for ink, places in parts))


def standing_of(hips: np.ndarray, floors: np.ndarray, heads: np.ndarray) -> Standing:
    """From the place of the hips across, of the floor and of the head down, (T,) each."""
    floor = middle(floors)
    near = np.argsort(np.abs(floors - floor), kind="stable")[: max(1, len(floors) // 2)]
    return Standing(middle(hips), floor, float(np.quantile((floors - heads)[near], 0.75)))


def fit_to(joints: np.ndarray, source: Standing, target: Standing, stretch: float = 1.0) -> np.ndarray:
    """Joints (T, J, 3) of a person who stands as `source`, moved to stand as `target`. Left stays left.

    stretch: width of the target's pixels is 1 / stretch of their height."""
    scale = target.height / max(source.height, 1e-6)
    fitted = joints.copy()
    fitted[..., 0] = target.across + stretch * scale * (joints[..., 0] - source.across)
    fitted[..., 1] = target.floor + scale * (joints[..., 1] - source.floor)
    return fitted
