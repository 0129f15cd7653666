"""The skeleton of a pose image: joints and limbs in the colours of OpenPose's BODY_25 (Cao et al. 2019), on white.

Arrays: T frames, J = 21 joints in the order of NAMES, pixels (x to the right, y down).
"""

import re
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLE = 4
LINE = 0.036  # width of a limb, image heights
ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
DIRECTIONS = np.stack([np.cos(ANGLES), np.sin(ANGLES)])  # (2, 24)

JOINTS = {"nose": (255, 0, 85), "neck": (255, 0, 0), "middle_hip": (255, 0, 0), "right_shoulder": (255, 85, 0),
          "right_elbow": (255, 150, 0), "right_wrist": (255, 210, 0), "left_shoulder": (170, 255, 0),
          "left_elbow": (85, 255, 0), "left_wrist": (0, 255, 0), "right_hip": (0, 255, 85), "right_knee": (0, 255, 170),
          "right_ankle": (0, 255, 255), "right_toe": (0, 255, 255), "left_hip": (0, 170, 255),
          "left_knee": (0, 85, 255), "left_ankle": (0, 0, 255), "left_toe": (0, 0, 255), "right_eye": (255, 0, 170),
          "left_eye": (170, 0, 255), "right_ear": (255, 0, 255), "left_ear": (85, 0, 255)}
NAMES = list(JOINTS)
LIMBS = [("neck", "middle_hip"), ("neck", "nose")] + [
    tuple(joint if joint in JOINTS else f"{side}_{joint}" for joint in limb) for side in ("right", "left") for limb in (
        ("neck", "shoulder"), ("shoulder", "elbow"), ("elbow", "wrist"), ("middle_hip", "hip"), ("hip", "knee"),
        ("knee", "ankle"), ("ankle", "toe"), ("nose", "eye"), ("eye", "ear"))]


def hull(centres: np.ndarray, radii: np.ndarray) -> list:
    """Convex hulls of circles, centres (T, n, 2), radii (T, n), as outlines [T][48]: the farthest in each direction."""
    farthest = np.argmax(centres @ DIRECTIONS + radii[..., None], axis=1)[..., None]  # (T, 24, 1)
    centre, radius = (np.take_along_axis(v, farthest, 1) for v in (centres, radii[..., None]))
    return (centre + radius * DIRECTIONS.T).reshape(len(centres), -1).tolist()


def pose_polygons(pixels: np.ndarray, seen: np.ndarray, height: float, least: float = 0.0) -> list[list]:
    """Coloured limbs and dark dots of the joints that are seen; pixels (T, J, 2), seen bool (T, J).

    height: of the image that the lines are made for, pixels; least: half the width of the thinnest line, pixels.
    """
    frames = [[] for _ in pixels]
    for limb in LIMBS + [(name, name) for name in NAMES]:
        ends, dot, head = [NAMES.index(name) for name in limb], limb[0] == limb[1], re.search("nose|eye|ear", limb[1])
        thickness = max(height * (0.011 if head else 0.014 if dot else LINE / 2), least)
        outlines = hull(pixels[:, ends], np.full((len(pixels), 2), thickness))
        colour = tuple(int(value * (0.7 if dot else 1)) for value in JOINTS[limb[1]])
        for t in np.flatnonzero(seen[:, ends].all(1)):
            frames[t].append((outlines[t], colour))
    return frames


def paint(polygons: list, background: Image.Image) -> Image.Image:
    """One frame's polygons, given in supersampled pixels, smoothly over a background image."""
    layer = Image.new("RGBA", (background.width * SUPERSAMPLE, background.height * SUPERSAMPLE))
    draw = ImageDraw.Draw(layer)
    for outline, colour in polygons:
        draw.polygon(outline, fill=colour)
    layer = layer.reduce(SUPERSAMPLE)
    background.paste(layer, mask=layer.getchannel("A"))
    return background


def draw_poses(
    joints: np.ndarray, min_confidence: float, height: int, width: int, widths: tuple[float, float]
) -> Iterator[Image.Image]:
    """Pose images of `height` x `width`, drawn at that size: joints (T, J, 3) as (x, y, confidence) in its pixels.

    widths: of a limb, and of the thinnest line, pixels."""
    limb, least = (SUPERSAMPLE * width for width in widths)
    for person in joints[:, None]:
        seen = person[..., 2] >= max(min_confidence, 1e-9)
        (polygons,) = pose_polygons(SUPERSAMPLE * person[..., :2], seen, limb / LINE, least / 2)
        yield paint(polygons, Image.new("RGB", (width, height), "white"))
