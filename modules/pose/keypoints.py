"""Keypoints as detectors write them: reading, following one person, writing.

OpenPose: a folder of *_keypoints.json, one a frame, with people of 25 (BODY_25) or 18 (COCO) joints. COCO: one JSON,
a list of results or a file with images and annotations, people of 17 joints or of those that its categories name.
Inside the project a person is (J, 3): x, y in pixels and a confidence in [0, 1], 0 where the joint was not found, in
the order of skeleton.NAMES.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from modules.files import read_json, write_json
from modules.pose.skeleton import LIMBS, NAMES
from modules.runtime import InputError

MAX_FRAMES = 10**6
FEWEST = 3  # joints of a person; with fewer there is nobody
LIMB_JOINTS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
BODY_25 = ["nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
           "middle_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye",
           "left_eye", "right_ear", "left_ear", "left_toe", "left_small_toe", "left_heel", "right_toe",
           "right_small_toe", "right_heel"]
COCO_18 = [name for name in BODY_25[:19] if name != "middle_hip"]
COCO_17 = ["nose"] + [f"{side}_{name}" for name in ("eye", "ear", *LIMB_JOINTS) for side in ("left", "right")]
ORDERS = {25: BODY_25, 18: COCO_18, 17: COCO_17}
MIDDLES = {"neck": ("right_shoulder", "left_shoulder"), "middle_hip": ("right_hip", "left_hip")}


def read_keypoints(path: Path, frames: int | None = None) -> list[np.ndarray]:
    """The people of every frame: [T] of (people, J, 3). InputError where the file or folder holds something else.

    frames: how many the video has, which must fit; None: as many as the keypoints.
    """
    if path.is_dir():
        people = read_openpose(path)
    elif path.is_file():
        people = read_coco(path, frames)
    else:
        raise InputError(f"{path}: not found; expected OpenPose's folder of *_keypoints.json or a COCO keypoints JSON")
    if frames is not None and len(people) != frames:
        raise InputError(f"{path}: keypoints of {len(people)} frames, the video has {frames}; expected one set a frame")
    return [np.array(frame).reshape(-1, len(NAMES), 3) for frame in people]


def read_openpose(folder: Path) -> list[list[np.ndarray]]:
    """OpenPose's folder, a file a frame, in the order of the numbers in their names."""
    files = [file for file in folder.iterdir() if file.name.endswith("_keypoints.json") and file.name[0] != "."]
    if not files:
        raise InputError(f"{folder}: no *_keypoints.json in it; expected the folder that OpenPose's --write_json names")
    frames = []
    for file in sorted(files, key=lambda file: (number_in(file.name.removesuffix("_keypoints.json"), file), file.name)):
        contents = read_json(file)
        people = contents.get("people") if isinstance(contents, dict) else None
        if not are_dicts(people):
            raise InputError(f'{file}: no list "people" in it; expected a file that OpenPose wrote')
        found = [person.get("pose_keypoints_2d") for person in people]
        frames.append([to_person(values, file) for values in found if values])
    return frames


def read_coco(file: Path, frames: int | None) -> list[list[np.ndarray]]:
    """A COCO keypoints file. Frames are its images; of a list of results, which names no empty frame, all numbers up
    to the last, which tells whether they begin at 0 or at 1."""
    contents, names = read_json(file), None
    if isinstance(contents, dict) and are_dicts(contents.get("images"), "id"):
        images = sorted(contents["images"], key=lambda image: number_in(image.get("file_name", image["id"]), file))
        place, count = {str(image["id"]): t for t, image in enumerate(images)}, len(images)
        names, contents = joint_names(contents), contents.get("annotations")
    if not are_dicts(contents, "image_id"):
        raise InputError(f"{file}: neither a list of results with image_id nor images and annotations; expected COCO's")
    if names is None:
        numbers = {str(result["image_id"]): number_in(result["image_id"], file) for result in contents}
        first, last = min(numbers.values(), default=0), max(numbers.values(), default=-1)
        if frames is not None:
            first = last - frames + 1
            if first not in (0, 1):
                raise InputError(f"{file}: its frames end at {last}, the video has {frames}; expected results up to "
                                 "the last frame")
        count = last - first + 1
        if count > MAX_FRAMES:
            raise InputError(f"{file}: frame numbers from {first} to {last}; expected at most {MAX_FRAMES:,} frames")
        place = {name: number - first for name, number in numbers.items()}
    people: list[list] = [[] for _ in range(count)]
    for result in contents:
        if str(result["image_id"]) not in place:
            raise InputError(f'{file}: image_id {str(result["image_id"])[:40]} is none of its images')
        if result.get("keypoints"):
            people[place[str(result["image_id"])]].append(to_person(result["keypoints"], file, names))
    return people


def are_dicts(values: Any, *keys: str) -> bool:
    """Whether a value of a JSON file is a list of objects that have these keys."""
    return isinstance(values, list) and all(isinstance(value, dict) and set(keys) <= set(value) for value in values)


def joint_names(contents: dict) -> list[str]:
    """The joints that a COCO file's category names, if COCO's 17 are among them, else these."""
    categories = contents.get("categories")
    names = categories[0]["keypoints"] if are_dicts(categories, "keypoints") and categories else None
    return names if isinstance(names, list) and set(COCO_17) <= set(map(str, names)) else COCO_17


def number_in(name: Any, file: Path) -> int:
    """The last number in a frame's name or id: "video_000012" -> 12."""
    digits = re.findall("[0-9]{1,15}", re.sub(r"\.[A-Za-z]\w*$", "", str(name)))
    if not digits:
        raise InputError(f"{file}: no frame number in {str(name)[:40]!r}; expected names like video_000012")
    return int(digits[-1])


def to_person(values: Any, file: Path, names: list[str] | None = None) -> np.ndarray:
    """(J, 3) of a detector's flat list x, y, confidence, …; neck and middle hip are made where it has none."""
    try:
        numbers = np.array(values, dtype=float)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{file}: keypoints are not a flat list of numbers; expected x, y, confidence, …") from None
    joints, rest = divmod(numbers.size, 3)
    names = names if names and len(names) == joints else ORDERS.get(joints)
    if rest or names is None or numbers.ndim != 1:
        raise InputError(f"{file}: {numbers.size} numbers for a person, {joints} joints; expected 25 (OpenPose's "
                         "BODY_25), 18 (OpenPose's COCO) or 17 (COCO), 3 numbers each")
    found = dict(zip(names, numbers.reshape(-1, 3), strict=True))
    person = np.array([found.get(name, np.zeros(3)) for name in NAMES])
    person[~np.isfinite(person).all(axis=1)] = 0
    person[:, 2] = person[:, 2].clip(0, 1)  # COCO's visibility is up to 2, some detectors' scores are, too
    for middle, sides in MIDDLES.items():
        ends = person[[NAMES.index(side) for side in sides]]
        if not person[NAMES.index(middle), 2] and ends[:, 2].all():
            person[NAMES.index(middle)] = [*ends[:, :2].mean(axis=0), ends[:, 2].min()]
    return person


def follow(
    people: list[np.ndarray], min_confidence: float, cuts: frozenset[int] = frozenset(), number: int | None = None
) -> np.ndarray:
    """One person through all frames: (T, J, 3), zeros in frames without the person.

    First the largest person, or that `number` from the left (0-based); then the one nearest to the last position. A
    person farther away than one body height (plus 10 % per missed frame) is a different person, except after a cut.
    cuts: the first frames after cuts.
    """
    joints, last, missed = np.zeros((len(people), len(NAMES), 3)), None, 0
    for t, frame in enumerate(people):
        missed = np.inf if t in cuts else missed + 1
        found = [person for person in frame if (person[:, 2] >= min_confidence).sum() >= FEWEST]
        if not found:
            continue
        visible = [np.where(person[:, 2:] >= min_confidence, person[:, :2], np.nan) for person in found]  # (J, 2)
        if last is not None:
            distances = [distance(person, last) for person in visible]
            chosen = np.argmin(distances)
            if distances[chosen] > height_of(last) * (1 + 0.1 * (missed - 1)):
                continue
        elif number is None:
            chosen = np.argmax([height_of(person) for person in visible])
        elif number < len(found):
            chosen = np.argsort([np.nanmedian(person[:, 0]) for person in visible], kind="stable")[number]
        else:
            raise InputError(f"--person {number}: frame {t} is the first with people and has {len(found)}; expected 0 "
                             f"to {len(found) - 1}, counted from the left")
        joints[t], last, missed = found[chosen], visible[chosen], 0
    return joints


def height_of(person: np.ndarray) -> float:
    """The longer side of the box around a person (J, 2), pixels."""
    return float((np.nanmax(person, axis=0) - np.nanmin(person, axis=0)).max())


def distance(person: np.ndarray, other: np.ndarray) -> float:
    """Mean distance of the joints that both have, else of their medians, pixels."""
    distances = np.linalg.norm(person - other, axis=1)
    if np.isnan(distances).all():
        return float(np.linalg.norm(np.nanmedian(person, axis=0) - np.nanmedian(other, axis=0)))
    return float(np.nanmean(distances))


def write_coco(
    path: Path, names: list[str], people: list[np.ndarray], height: int, width: int, info: dict | None = None
) -> None:
    """A COCO file with an image for every name, also for those without a person. people: [T] of (n, J, 3)."""
    images = [{"id": t, "file_name": name, "width": width, "height": height} for t, name in enumerate(names)]
    placed = [(t, person.round(3).ravel().tolist()) for t, frame in enumerate(people) for person in frame]
    annotations = [{"id": i, "image_id": t, "category_id": 1, "iscrowd": 0, "keypoints": values}
                   for i, (t, values) in enumerate(placed)]
    skeleton = [[NAMES.index(name) + 1 for name in limb] for limb in LIMBS]
    category = {"id": 1, "name": "person", "keypoints": NAMES, "skeleton": skeleton}
    write_json(path, {"info": info or {}, "images": images, "annotations": annotations, "categories": [category]})


def openpose_person(person: np.ndarray) -> list[float]:
    """(J, 3) as OpenPose's BODY_25 list of 75 numbers."""
    found = dict(zip(NAMES, person.round(3).tolist(), strict=True))
    return [value for name in BODY_25 for value in found.get(name, (0, 0, 0))]
