"""The skeleton of a pose image on white, in one of two palettes.

openpose: joints and limbs in the colours of OpenPose's BODY_25 (Cao et al. 2019), lines of a chosen width.
course: the colours and widths of the course's labels, which the renderer of "Everybody Dance Now" (Chan et al. 2019)
drew at 1920x1080, without its hands and face: dots, over them limbs as ellipses of 60 % opacity. Redrawn from the
joints of three of its frames they match the true labels at 44.4 dB or more at 32x64 (a white page: 33).
Arrays: T frames, J = 23 joints in the order of NAMES, pixels (x to the right, y down).
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
NAMES = [*JOINTS, "right_small_toe", "left_small_toe"]  # the last two in the palette "course" only
LIMBS = [("neck", "middle_hip"), ("neck", "nose")] + [
    tuple(joint if joint in JOINTS else f"{side}_{joint}" for joint in limb) for side in ("right", "left") for limb in (
        ("neck", "shoulder"), ("shoulder", "elbow"), ("elbow", "wrist"), ("middle_hip", "hip"), ("hip", "knee"),
        ("knee", "ankle"), ("ankle", "toe"), ("nose", "eye"), ("eye", "ear"))]

PALETTES = ("openpose", "course")
COURSE_SIZE, COURSE_LEAST = np.array([1920, 1080]), 512  # pixels of that renderer's images; rows that are drawn
COURSE_DOT, COURSE_LIMB, COURSE_OPACITY = 7.5, 3.75, 153  # radius, half a width: pixels of COURSE_SIZE; of 255
COURSE = {"neck": (0, 0, 255), "right_shoulder": (0, 55, 255), "right_elbow": (0, 110, 255),
          "right_wrist": (0, 165, 255), "left_shoulder": (0, 215, 255), "left_elbow": (0, 235, 255),
          "left_wrist": (0, 255, 255), "middle_hip": (0, 0, 255), "right_hip": (0, 255, 175),
          "right_knee": (0, 255, 85), "right_ankle": (0, 255, 0), "right_toe": (85, 255, 0),
          "right_small_toe": (170, 255, 0), "left_hip": (128, 25, 25), "left_knee": (255, 85, 0),
          "left_ankle": (255, 170, 0), "left_toe": (255, 212, 0), "left_small_toe": (255, 255, 0), "nose": (0, 0, 255),
          "right_eye": (255, 0, 255), "right_ear": (238, 130, 238), "left_eye": (226, 43, 138),
          "left_ear": (130, 0, 75)}
COURSE_LIMBS = [*LIMBS, ("right_ankle", "right_small_toe"), ("left_ankle", "left_small_toe")]  # the first's colour


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
    for limb in LIMBS + [(name, name) for name in JOINTS]:
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
    joints: np.ndarray, min_confidence: float, height: int, width: int, widths: tuple[float, float] | None
) -> Iterator[Image.Image]:
    """Pose images of `height` x `width`, drawn at that size: joints (T, J, 3) as (x, y, confidence) in its pixels.

    widths: of a limb, and of the thinnest line, pixels, in the palette "openpose"; None: the palette "course".
    """
    for person in joints[:, None]:
        seen = person[..., 2] >= max(min_confidence, 1e-9)
        if widths is None:
            yield course_pose(person[0, :, :2], seen[0], height, width)
            continue
        limb, least = (SUPERSAMPLE * width for width in widths)
        (polygons,) = pose_polygons(SUPERSAMPLE * person[..., :2], seen, limb / LINE, least / 2)
        yield paint(polygons, Image.new("RGB", (width, height), "white"))


def course_pose(pixels: np.ndarray, seen: np.ndarray, height: int, width: int) -> Image.Image:
    """One pose in the palette "course": pixels (J, 2), seen bool (J). An image of another aspect than COURSE_SIZE is
    squeezed, as the course's are: so are dots and limbs."""
    size = np.array([width, height]) * max(1, -(-COURSE_LEAST // height))
    scale = size / COURSE_SIZE
    image = Image.new("RGB", tuple(size.tolist()), "white")
    draw = ImageDraw.Draw(image, "RGBA")  # paints translucent colours over what is there
    points = {name: pixels[i] * size / (width, height) for i, name in enumerate(NAMES) if seen[i]}
    for name in COURSE:
        if name in points:
            outline = points[name] + COURSE_DOT * scale * DIRECTIONS.T
            draw.polygon(outline.ravel().tolist(), fill=COURSE[name])
    for first, last in COURSE_LIMBS:
        if first in points and last in points:
            half = (points[last] - points[first]) / scale / 2
            across = COURSE_LIMB / max(np.hypot(*half), 1e-6) * np.array([-half[1], half[0]])
            outline = (points[first] + points[last]) / 2 + scale * (DIRECTIONS.T @ np.stack([half, across]))
            draw.polygon(outline.ravel().tolist(), fill=(*COURSE[first], COURSE_OPACITY))
    return image.resize((width, height), Image.Resampling.BILINEAR)
