"""Keypoints as detectors write them: reading, following one person, writing.

OpenPose: a folder of *_keypoints.json, one a frame, with people of 25 (BODY_25) or 18 (COCO) joints. COCO: one JSON,
a list of results or a file with images and annotations, people of 17 joints or of those that its categories name.
Inside the project a person is (J, 3): x, y in pixels and a confidence in [0, 1], 0 where the joint was not found, in
the order of skeleton.NAMES.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modules.files import read_json, write_json
from modules.pose.skeleton import LIMBS, NAMES
from modules.runtime import InputError

MOST_FRAMES = 10**6
FEWEST = 3  # joints of a person; with fewer there is nobody
LIMB_JOINTS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
BODY_25 = ["nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
           "middle_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye",
           "left_eye", "right_ear", "left_ear", "left_toe", "left_small_toe", "left_heel", "right_toe",
           "right_small_toe", "right_heel"]
COCO_18 = [name for name in BODY_25[:19] if name != "middle_hip"]
COCO_17 = ["nose"] + [f"{side}_{name}" for name in ("eye", "ear", *LIMB_JOINTS) for side in ("left", "right")]
ORDERS = {25: BODY_25, 18: COCO_18, 17: COCO_17}
EXPECTED = "25 (OpenPose's BODY_25), 18 (OpenPose's COCO) or 17 (COCO)"
MIDDLES = {"neck": ("right_shoulder", "left_shoulder"), "middle_hip": ("right_hip", "left_hip")}


def read_keypoints(path: Path, frames: int | None = None, used: int | None = None) -> list[np.ndarray]:
    """The people of every frame: [T] of (people, J, 3). InputError where the file or folder holds something else.

    frames: how many the film has, which must fit; None: as many as the keypoints are of. used: how many of them, from
    the first, are needed: a list of results may end there.
    """
    if path.is_dir():
        people = read_openpose(path)
    elif path.is_file():
        people = read_coco(path, frames, used or frames)
    else:
        raise InputError(f"{path}: not found; expected OpenPose's folder of *_keypoints.json or a COCO keypoints JSON")
    if frames is not None and len(people) != frames:
        raise InputError(f"{path}: keypoints of {len(people)} frames, the film has {frames}; expected one set a frame")
    return people


def read_openpose(folder: Path) -> list[np.ndarray]:
    """OpenPose's folder, a file a frame, in the order of the numbers in their names."""
    files = [file for file in folder.iterdir() if file.name.endswith("_keypoints.json") and file.name[0] != "."]
    if not files:
        raise InputError(f"{folder}: no *_keypoints.json in it; expected the folder that OpenPose's --write_json names")
    frames = []
    for file in sorted(files, key=lambda file: (number_in(file.name.removesuffix("_keypoints.json"), file), file.name)):
        contents = read(file)
        people = contents.get("people") if isinstance(contents, dict) else None
        if not isinstance(people, list) or not all(isinstance(person, dict) for person in people):
            raise InputError(f'{file}: no list "people" in it; expected a file that OpenPose wrote')
        found = [person.get("pose_keypoints_2d", person.get("pose_keypoints")) for person in people]
        frames.append(stack([to_person(values, file) for values in found if values]))
    return frames


def read_coco(file: Path, frames: int | None, used: int | None) -> list[np.ndarray]:
    """A COCO keypoints file. Frames are its images; of a list of results, which names no empty frame, the numbers from
    0, or from 1 if the last is the number of frames."""
    contents = read(file)
    results, images, names = contents, None, None
    if isinstance(contents, dict):
        results, images, names = contents.get("annotations"), contents.get("images"), names_of(contents)
    if not isinstance(results, list) or not all(isinstance(r, dict) and "image_id" in r for r in results):
        raise InputError(f"{file}: neither a list of results with image_id nor images and annotations; expected COCO's")
    if images is not None:
        if not isinstance(images, list) or not all(isinstance(image, dict) and "id" in image for image in images):
            raise InputError(f'{file}: "images" is not a list of images with an id; expected COCO\'s')
        images = sorted(images, key=lambda image: number_in(image.get("file_name", image["id"]), file))
        place = {str(image["id"]): t for t, image in enumerate(images)}
    else:
        numbers = {str(r["image_id"]): number_in(r["image_id"], file) for r in results}
        if not numbers:
            raise InputError(f"{file}: an empty list of results: no person at all in it")
        first, last = min(numbers.values()), max(numbers.values())
        if frames is not None:
            first = 1 if last == frames or (first == 1 and last < frames - 1) else 0
            if not used <= last - first + 1 <= frames:
                raise InputError(f"{file}: its frames end at number {last}, the film has {frames}; expected results up "
                                 "to the last frame (--end, in seconds, leaves out an end without a person)")
        if last - first >= MOST_FRAMES:
            raise InputError(f"{file}: frame numbers from {first} to {last}; expected at most {MOST_FRAMES:,} frames")
        place = {name: number - first for name, number in numbers.items()}
        images = range(frames or last - first + 1)
    people: list[list] = [[] for _ in images]
    for result in results:
        if str(result["image_id"]) not in place:
            raise InputError(f'{file}: image_id {str(result["image_id"])[:40]} is none of its images')
        if result.get("keypoints"):
            people[place[str(result["image_id"])]].append(to_person(result["keypoints"], file, names))
    return [stack(some) for some in people]


def read(file: Path) -> Any:
    """A JSON file; InputError for anything else, also for one that is nested without end."""
    try:
        return read_json(file)
    except RecursionError:
        raise InputError(f"{file}: cannot be read as JSON (nested too deeply)") from None


def names_of(contents: dict) -> list[str] | None:
    """The joints that a COCO file's category names, if all of ours are spelled as ours; None: the usual 17."""
    categories = contents.get("categories")
    names = categories[0].get("keypoints") if isinstance(categories, list) and categories and isinstance(
        categories[0], dict) else None
    return names if isinstance(names, list) and set(COCO_17) <= {str(name) for name in names} else None


def number_in(name: Any, file: Path) -> int:
    """The last number in a frame's name or id: "film_000012" -> 12."""
    digits = re.findall("[0-9]{1,15}", re.sub(r"\.[A-Za-z]\w*$", "", str(name)))
    if not digits:
        raise InputError(f"{file}: no frame number in {str(name)[:40]!r}; expected names like film_000012")
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
        raise InputError(f"{file}: {numbers.size} numbers for a person, {joints} joints; expected {EXPECTED}, 3 each")
    found = dict(zip(names, numbers.reshape(-1, 3), strict=True))
    person = np.array([found.get(name, np.zeros(3)) for name in NAMES])
    person[~np.isfinite(person).all(axis=1)] = 0
    person[:, 2] = person[:, 2].clip(0, 1)  # COCO's visibility is up to 2, some detectors' scores are, too
    for middle, sides in MIDDLES.items():
        ends = person[[NAMES.index(side) for side in sides]]
        if not person[NAMES.index(middle), 2] and ends[:, 2].all():
            person[NAMES.index(middle)] = [*ends[:, :2].mean(axis=0), ends[:, 2].min()]
    return person


def stack(people: list[np.ndarray]) -> np.ndarray:
    return np.array(people).reshape(-1, len(NAMES), 3)


def follow(
    people: list[np.ndarray], min_confidence: float, cuts: frozenset[int] = frozenset(), numbers: Sequence[int] = ()
) -> np.ndarray:
    """One person through all frames: (T, J, 3), zeros where he is not there.

    At first it is the largest person, or number numbers[0] from the left (0-based); then the one nearest to where he
    was. Who is farther than his height, and a tenth of it more for every frame that he was gone, is somebody else, but
    for a cut of the film (cuts: the frames behind them), where he may be anywhere: numbers[i] is who he is behind the
    i-th cut.
    """
    joints, last, gone = np.zeros((len(people), len(NAMES), 3)), None, 0
    person, later = (numbers[0] if numbers else None), iter(numbers[1:])
    for t, all_found in enumerate(people):
        gone = gone + 1
        if t in cuts:
            gone, person = np.inf, next(later, None)
            last = None if person is not None else last
        found = [one for one in all_found if (one[:, 2] >= min_confidence).sum() >= FEWEST]
        if not found:
            continue
        if last is None:
            chosen = choose(found, min_confidence, person, t)
        else:
            distances = [distance(one, last, min_confidence) for one in found]
            chosen = found[int(np.argmin(distances))]
            if min(distances) > extent(last, min_confidence) * (1 + 0.1 * (gone - 1)):
                continue
        joints[t], last, gone = chosen, chosen, 0
    return joints


def choose(found: list[np.ndarray], min_confidence: float, person: int | None, t: int) -> np.ndarray:
    """Of a frame's people the largest, or number `person` from the left."""
    if person is None:
        return max(found, key=lambda one: extent(one, min_confidence))
    if not 0 <= person < len(found):
        raise InputError(f"--person {person}: frame {t} is the first with people and has {len(found)}; expected 0 to "
                         f"{len(found) - 1}, counted from the left")
    return sorted(found, key=lambda one: np.median(seen_joints(one, min_confidence)[:, 0]))[person]


def seen_joints(one: np.ndarray, min_confidence: float) -> np.ndarray:
    return one[one[:, 2] >= min_confidence, :2]


def extent(one: np.ndarray, min_confidence: float) -> float:
    """The longer side of the box around a person, pixels."""
    return float(np.ptp(seen_joints(one, min_confidence), axis=0).max())


def distance(one: np.ndarray, other: np.ndarray, min_confidence: float) -> float:
    """Mean distance of the joints that both have, else of their medians, pixels."""
    both = (one[:, 2] >= min_confidence) & (other[:, 2] >= min_confidence)
    if both.any():
        return float(np.linalg.norm(one[both, :2] - other[both, :2], axis=1).mean())
    medians = [np.median(seen_joints(person, min_confidence), axis=0) for person in (one, other)]
    return float(np.linalg.norm(medians[0] - medians[1]))


def write_coco(
    path: Path, names: list[str], people: list[np.ndarray], height: int, width: int, info: dict | None = None
) -> None:
    """A COCO file with an image for every name, also for those without a person. people: [T] of (n, J, 3)."""
    images = [{"id": t, "file_name": name, "width": width, "height": height} for t, name in enumerate(names)]
    annotations = [
        {"id": i, "image_id": t, "category_id": 1, "iscrowd": 0, "keypoints": one.round(3).ravel().tolist()}
        for i, (t, one) in enumerate((t, one) for t, some in enumerate(people) for one in some)]
    skeleton = [[NAMES.index(name) + 1 for name in limb] for limb in LIMBS]
    category = {"id": 1, "name": "person", "keypoints": NAMES, "skeleton": skeleton}
    write_json(path, {"info": info or {}, "images": images, "annotations": annotations, "categories": [category]})


def openpose_person(person: np.ndarray) -> list[float]:
    """(J, 3) as OpenPose's BODY_25 list of 75 numbers."""
    found = dict(zip(NAMES, person.round(3).tolist(), strict=True))
    return [value for name in BODY_25 for value in found.get(name, (0, 0, 0))]
