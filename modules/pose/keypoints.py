"""Keypoints as detectors write them: recognised by their form, matched to the frames of a video, one person followed.

Inside the project a person is (J, 3): x, y in pixels and a confidence in [0, 1], 0 where the joint was not found, in
the order of skeleton.NAMES.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modules.data.pairing import NAMED, frame_numbers, visible
from modules.files import read_json, write_json
from modules.pose.skeleton import LIMBS, NAMES
from modules.pose.video import Video
from modules.runtime import InputError

MAX_FRAMES = 10**6
FEWEST = 3  # joints of a person; with fewer there is nobody
LEAST_SCORE = 0.15  # of a person
LIMB_JOINTS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
BODY_25 = ["nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
           "middle_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye",
           "left_eye", "right_ear", "left_ear", "left_toe", "left_small_toe", "left_heel", "right_toe",
           "right_small_toe", "right_heel"]
BODY_23 = [BODY_25[i] for i in (*range(1, 12), 22, 23, *range(12, 15), 19, 20, 0, 15, 17, 16, 18)]
COCO_18 = [name for name in BODY_25[:19] if name != "middle_hip"]
COCO_17 = ["nose"] + [f"{side}_{name}" for name in ("eye", "ear", *LIMB_JOINTS) for side in ("left", "right")]
HALPE = [*COCO_17, "head", "neck", "middle_hip", *(f"{side}_{name}" for name in ("toe", "small_toe")
                                                  for side in ("left", "right"))]
WHOLE_BODY = [*COCO_17, *(f"{side}_{name}" for side in ("left", "right") for name in ("toe", "small_toe", "heel"))]
BLAZE = ["nose", "", "left_eye", "", "", "right_eye", "", "left_ear", "right_ear", "", "", *COCO_17[5:11], *[""] * 6,
         *COCO_17[11:], "left_heel", "right_heel", "left_toe", "right_toe"]
# the names of the first joints of a person, by the number of joints
ORDERS = {25: BODY_25, 23: BODY_23, 18: COCO_18, 17: COCO_17, 26: HALPE, 136: HALPE, 133: WHOLE_BODY, 33: BLAZE}
MIDDLES = {"neck": ("right_shoulder", "left_shoulder"), "middle_hip": ("right_hip", "left_hip")}
FOLDERS = {"_keypoints.json": "OpenPose's JSON files", "_pose.yml": "OpenPose's YAML files",
           "_keypoints.yml": "OpenPose's YAML files", ".json": "a JSON file a frame"}
SWITCHES = {".txt": "YOLO's labels? save_json=True writes COCO results", **dict.fromkeys(
    (".png", ".jpg"), "images? OpenPose's --write_json writes keypoints")}
EXPECTED = "OpenPose's *_keypoints.json, COCO JSON or COCO results, MMPose's or AlphaPose's JSON"


class Found(NamedTuple):
    """A person that a detector found in a frame."""

    joints: np.ndarray  # (J, 3)
    score: float  # [0, 1], the detector's own, else the mean confidence of the joints that it found
    track: str | None  # its number for this person through the video


class Keypoints(NamedTuple):
    """What a detector wrote: the people of its frames, by the frame's name or number."""

    path: Path
    form: str
    complete: bool  # whether frames without a person are there, too
    frames: dict[str, list[Found]]
    info: dict

    def matched(self, video: Video | None = None) -> list[list[Found]]:
        """The people of every frame of the video, by name or number; of every frame from the first to the last where
        there is none. Prints what was recognised and what is missing; InputError where they are not this video's."""
        stems = [re.sub(r"\.[A-Za-z]\w*$", "", Path(name).name) for name in self.frames]
        numbers, choice = frame_numbers(stems)
        places = dict(zip(numbers, self.frames.values(), strict=True))
        if len(places) < len(stems) or -1 in places:
            same = [stem[:40] for stem, n in zip(stems, numbers, strict=True) if n < 0 or numbers.count(n) > 1]
            raise InputError(f"{self.path}: {', '.join(same[:NAMED])}: no frame number, or several frames with one; "
                             "expected the keypoints of one video, names like video_000012")
        first, last = min(places, default=0), max(places, default=0)
        if last - first >= MAX_FRAMES:
            raise InputError(f"{self.path}: frame numbers {first} to {last}; expected at most {MAX_FRAMES:,} frames")
        wanted, counted = self.wanted(video, stems, sorted(places))
        if wanted and isinstance(next(iter(wanted)), str):
            places = dict(zip(stems, self.frames.values(), strict=True))
        print(f"{self.path}: {self.form}, {len(places):,} frames, numbered {first} to {last}"
              + f" ({min(wanted)} is the video's first)" * counted + f"; {choice}" * bool(choice))
        missing, known = [key for key in wanted if key not in places], set(wanted)
        others = [key for key in places if key not in known]
        if video and (counted and others or self.complete and 2 * len(missing) > len(wanted)):
            raise InputError(f"{self.path}: {len(places)} frames, numbered {first} to {last}; the video has "
                             f"{len(wanted)}, {len(missing)} of them have none; expected the keypoints of this video")
        for keys, fault in ((missing, "have no keypoints: nobody is there"), (others, "are none of the video's")):
            if keys:
                print(f"{self.path}: {len(keys):,} frames {fault}: {', '.join(map(str, keys[:NAMED]))}"
                      + ", …" * (len(keys) > NAMED))
        return [places.get(key, []) for key in wanted]

    def wanted(self, video: Video | None, stems: list[str], numbers: list[int]) -> tuple[list, bool]:
        """The names or numbers of all frames, in order, and whether they are numbers that were counted."""
        if video is None and (not numbers or self.form == "COCO JSON"):
            return numbers, False
        if video is None:
            steps, counts = np.unique(np.diff(numbers), return_counts=True)
            return list(range(numbers[0], numbers[-1] + 1, int(steps[counts.argmax()]) if len(steps) else 1)), False
        if video.files:
            names = [path.stem for path in video.files.values()]
            for keys, wanted in ((stems, names), (numbers, list(video.files))):
                if 2 * len(set(keys) & set(wanted)) >= len(wanted):
                    return wanted, False
        count, (first, last) = len(video.times), (min(numbers, default=0), max(numbers, default=0))
        start = int(first >= 1 and (last == count or first == 1 and "OpenPose" not in self.form))
        if self.complete and len(numbers) == count <= last:  # numbers of another video that this one was cut from
            return numbers, False
        return list(range(start, start + count)), True


def read_keypoints(path: Path) -> Keypoints:
    """Read and recognise a detector's file or folder. InputError names what was found in place of a known form."""
    if path.is_dir():
        return read_folder(path)
    if not path.is_file():
        raise InputError(f"{path}: not found; expected {EXPECTED}")
    if path.suffix != ".json":
        raise InputError(f"{path}: a {path.suffix or 'nameless'} file ({SWITCHES.get(path.suffix, 'not known')}); "
                         f"expected {EXPECTED}")
    contents, frames = read_json(path), {}
    info = contents.get("info") if isinstance(contents, dict) else None
    info = info if isinstance(info, dict) else {}
    inside = contents.get("instance_info") if isinstance(contents, dict) else contents
    if isinstance(contents, dict) and are_dicts(contents.get("images"), "id"):
        names = joint_names(contents)
        images = {str(image["id"]): str(image.get("file_name", image["id"])) for image in contents["images"]}
        frames = {name: [] for name in images.values()}
        for item in check_dicts(contents.get("annotations"), path, "annotations", "image_id"):
            if str(item["image_id"]) not in images:
                raise InputError(f'{path}: image_id {str(item["image_id"])[:40]} is none of its images')
            frames[images[str(item["image_id"])]].append(item)
        return Keypoints(path, "COCO JSON", True, {k: to_people(v, path, names) for k, v in frames.items()}, info)
    if are_dicts(contents, "image_id"):
        for item in contents:
            frames.setdefault(str(item["image_id"]), []).append(item)
        return Keypoints(path, "COCO results", False, {k: to_people(v, path) for k, v in frames.items()}, info)
    if are_dicts(inside, "frame_id", "instances"):
        frames = {str(item["frame_id"]): to_people(item["instances"], path) for item in inside}
        return Keypoints(path, "MMPose's instances", False, frames, info)
    found = f"an object with {', '.join(map(str, list(contents)[:4]))}" if isinstance(contents, dict) else "a list"
    if isinstance(contents, dict) and any(isinstance(value, dict) and "bodies" in value for value in contents.values()):
        found = "AlphaPose's --format open; leave out --format"
    elif are_dicts(contents) and contents:
        found = f"a list of objects with {', '.join(map(str, list(contents[0])[:4]))}"
    raise InputError(f"{path}: JSON of no known form ({found[:150]}); expected {EXPECTED}")


def read_folder(folder: Path) -> Keypoints:
    """A file a frame: OpenPose's JSON or YAML, or JSON that holds a frame's instances."""
    names = sorted(path.name for path in folder.iterdir() if visible(path.name))
    suffix = next((suffix for suffix in FOLDERS if any(name.endswith(suffix) for name in names)), None)
    if suffix is None:
        ending = Path(names[0]).suffix if names else ""
        raise InputError(f"{folder}: no *_keypoints.json in it, but {len(names)} files, {', '.join(names[:NAMED])} "
                         f"({SWITCHES.get(ending, 'not known')}); expected {EXPECTED}")
    frames = {}
    for name in names:
        file = folder / name
        if not name.endswith(suffix):
            continue
        contents = read_yaml(file) if suffix.endswith("yml") else read_json(file)
        for key in ("people", "instance_info", "instances"):
            contents = contents.get(key, contents) if isinstance(contents, dict) else contents
        if isinstance(contents, dict):
            raise InputError(f'{file}: no list "people" in it; expected {EXPECTED}')
        frames[name.removesuffix(suffix)] = to_people(contents, file)
    return Keypoints(folder, FOLDERS[suffix], True, frames, {})


def read_yaml(file: Path) -> list[dict]:
    """The people of OpenPose's --write_keypoint: a matrix [people, joints, 3] in OpenCV's YAML."""
    text = file.read_text(encoding="utf-8", errors="replace")
    sizes, data = (re.search(rf"{key}: *\[([^]]*)\]", text) for key in ("sizes", "data"))
    try:
        people = np.array(data[1].split(","), float).reshape([int(size) for size in sizes[1].split(",")])
    except (TypeError, ValueError):
        raise InputError(f"{file}: no matrix of keypoints in it; expected OpenPose's YAML") from None
    return [{"keypoints": person.ravel()} for person in people]


def are_dicts(values: Any, *keys: str) -> bool:
    """Whether a value of a JSON file is a list of objects that have these keys."""
    return isinstance(values, list) and all(isinstance(value, dict) and set(keys) <= set(value) for value in values)


def check_dicts(values: Any, file: Path, name: str, *keys: str) -> list[dict]:
    if not are_dicts(values, *keys):
        raise InputError(f'{file}: no list "{name}" of people in it; expected {EXPECTED}')
    return values


def joint_names(contents: dict) -> list[str]:
    """The joints that a COCO file's category names, if COCO's 17 are among them, else these."""
    categories = contents.get("categories")
    names = categories[0]["keypoints"] if are_dicts(categories, "keypoints") and categories else None
    return names if isinstance(names, list) and set(COCO_17) <= set(map(str, names)) else COCO_17


def to_people(items: Any, file: Path, names: list[str] | None = None) -> list[Found]:
    """The people that a file lists for a frame; one without keypoints is left out."""
    people = []
    for item in check_dicts(items, file, "people"):
        values = next((item[key] for key in ("pose_keypoints_2d", "keypoints") if item.get(key) is not None), [])
        if item.get("keypoint_scores") is not None:
            try:
                values = np.column_stack([values, item["keypoint_scores"]])
            except (TypeError, ValueError):
                raise InputError(f"{file}: keypoints and keypoint_scores of different lengths") from None
        if not len(values) if hasattr(values, "__len__") else values is None:
            continue
        joints = to_person(values, file, names)
        seen = joints[joints[:, 2] > 0, 2]
        scores = [item[key] for key in ("score", "bbox_score") if isinstance(item.get(key), (int, float))]
        tracks = [item[key] for key in ("track_id", "idx", "person_id") if item.get(key) is not None]
        track = str(np.ravel(tracks[0])[0]).removesuffix(".0") if tracks and np.size(tracks[0]) else "-1"
        score = min(1.0, scores[0]) if scores else float(seen.mean()) if len(seen) else 0.0
        people.append(Found(joints, score, None if track == "-1" else track))
    tracks = [person.track for person in people]
    return people if len(set(tracks)) == len(tracks) else [person._replace(track=None) for person in people]


def to_person(values: Any, file: Path, names: list[str] | None = None) -> np.ndarray:
    """(J, 3) of a detector's list x, y, confidence, …; neck and middle hip are made where it has none."""
    try:
        numbers = np.array(values, dtype=float).ravel()
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{file}: keypoints are not a list of numbers; expected x, y, confidence, …") from None
    joints, rest = divmod(numbers.size, 3)
    names = names if names and len(names) == joints else ORDERS.get(joints)
    if rest or names is None:
        raise InputError(f"{file}: {numbers.size} numbers for a person, {joints} joints; expected 3 numbers each for "
                         f"{', '.join(map(str, sorted(ORDERS)))} joints")
    found = dict(zip(names, numbers.reshape(-1, 3), strict=False))
    person = np.array([found.get(name, np.zeros(3)) for name in NAMES])
    person[~np.isfinite(person).all(axis=1)] = 0
    person[:, 2] = person[:, 2].clip(0, 1)  # COCO's visibility is up to 2, some detectors' scores are, too
    for middle, sides in MIDDLES.items():
        ends = person[[NAMES.index(side) for side in sides]]
        if not person[NAMES.index(middle), 2] and ends[:, 2].all():
            person[NAMES.index(middle)] = [*ends[:, :2].mean(axis=0), ends[:, 2].min()]
    return person


def follow(
    people: list[list[Found]], min_confidence: float, cuts: Iterable[int] = (), who: str | None = None
) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """One person through all frames: (T, J, 3), zeros in frames without the person; and the frames in which another
    person may be followed from there on, with the reason.

    First the person with the largest score times height, or who: "I" the one from the left (0-based), "id:N" the one
    with the detector's number N, in all frames. Then the one of the same number, or the one nearest to the last
    position. A person farther away than one body height (plus 10 % per missed frame) is a different person, except
    after a cut. cuts: the first frames after cuts. People with a score below LEAST_SCORE are left out.
    """
    joints, last, missed, changes, cuts = np.zeros((len(people), len(NAMES), 3)), None, 0, [], set(cuts)
    wanted, track, number = (who or "").removeprefix("id:") if (who or "").startswith("id:") else None, None, who
    ids = {person.track for frame in people for person in frame}
    if wanted is not None and wanted not in ids:
        raise InputError(f"--person id:{wanted}: the keypoints have the numbers "
                         f"{', '.join(sorted(filter(None, ids))[:9]) or 'of nobody'}")
    for t, frame in enumerate(people):
        missed = np.inf if t in cuts else missed + 1
        found = [person for person in frame if person.score >= LEAST_SCORE and wanted in (None, person.track)
                 and (person.joints[:, 2] >= min_confidence).sum() >= FEWEST]
        if not found:
            continue
        visible = [np.where(person.joints[:, 2:] >= min_confidence, person.joints[:, :2], np.nan) for person in found]
        same = [i for i, person in enumerate(found) if track is not None and person.track == track]
        if wanted is not None or same:
            chosen = same[0] if same else 0
        elif last is not None:
            distances = [distance(person, last) for person in visible]
            chosen = int(np.argmin(distances))
            if distances[chosen] > height_of(last) * (1 + 0.1 * (missed - 1)):
                continue
            if track is not None and found[chosen].track != track:
                changes.append((t, f"the detector's number {track} becomes {found[chosen].track}"))
            elif len(found) > 1 and missed > 1:
                changes.append((t, f"the nearest of {len(found)} people after a gap or a cut"))
        elif number is None:
            sizes = [height_of(person) for person in visible]
            chosen = int(np.argmax([person.score * size for person, size in zip(found, sizes, strict=True)]))
        elif int(number) < len(found):
            order = np.argsort([np.nanmedian(person[:, 0]) for person in visible], kind="stable")
            chosen = int(order[int(number)])
        else:
            raise InputError(f"--person {number}: frame {t} is the first with people and has {len(found)}; expected 0 "
                             f"to {len(found) - 1}, counted from the left")
        joints[t], last, missed, track = found[chosen].joints, visible[chosen], 0, found[chosen].track
    return joints, changes


def check_people(people: list[list[Found]], size: tuple[int, int] | None, least: float, source: Path) -> None:
    """InputError where there is nobody with joints of the confidence `least`, or where the coordinates are no pixels of
    images of this size (width, height)."""
    seen = [person.joints[person.joints[:, 2] >= least] for frame in people for person in frame]
    joints = np.concatenate([person for person in seen if len(person) >= FEWEST] or [np.zeros((0, 3))])
    if not len(joints):
        raise InputError(f"{source}: no person in it with {FEWEST} joints of --min_confidence {least} or more")
    if joints[:, :2].max() <= 2:
        raise InputError(f"{source}: coordinates from 0 to 1; expected pixels (OpenPose: --keypoint_scale 0)")
    if size and (outside := find_outside(joints, size)) > 0.5:
        raise InputError(f"{source}: {outside:.0%} of the joints lie outside the video's {size[0]}x{size[1]}; expected "
                         "keypoints of this video at this size, rotated as it is shown, with square pixels")


def find_outside(joints: np.ndarray, size: tuple[int, int]) -> float:
    """The share of joints (N, 3) that lie outside an image of size (width, height)."""
    return float(((joints[:, :2] < 0) | (joints[:, :2] > size)).any(axis=1).mean())


def warn_of(joints: np.ndarray, size: tuple[int, int], least: float, changes: list[tuple[int, str]]) -> None:
    """Warn of what makes poor poses: one person's joints (T, J, 3) in frames of size (width, height), and `changes` of
    the person by the frame."""
    seen, some = joints[joints[..., 2] >= max(least, 1e-9)], joints[joints[..., 2] > 0]
    warnings = [f"frame {t}: another person may be followed from here: {reason}" for t, reason in changes[:NAMED]]
    warnings += [f"{len(changes)} such frames in all; see --person id:N"] * (len(changes) > NAMED)
    if len(seen) and (outside := find_outside(seen, size)) > 0.02:
        warnings.append(f"{outside:.0%} of the person's joints lie outside the frames")
    if len(some) and (low := 1 - len(seen) / len(some)) > 0.25:
        warnings.append(f"{low:.0%} of the person's joints are not drawn: confidence below --min_confidence {least}")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


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
    path: Path, names: list[str], people: list[np.ndarray], height: int, width: int, info: dict | None = None,
    times: Iterable[float] | None = None,
) -> None:
    """A COCO file with an image for every name, also for those without a person. people: [T] of (n, J, 3); times: of
    the frames, seconds."""
    images = [{"id": t, "file_name": name, "width": width, "height": height} for t, name in enumerate(names)]
    for image, time in zip(images, times or (), strict=False):
        image["time"] = round(time, 4)
    placed = [(t, person.round(3).ravel().tolist()) for t, frame in enumerate(people) for person in frame]
    annotations = [{"id": i, "image_id": t, "category_id": 1, "iscrowd": 0, "keypoints": values,
                    "score": round(sum(values[2::3]) / max(1, np.count_nonzero(values[2::3])), 3)}
                   for i, (t, values) in enumerate(placed)]
    skeleton = [[NAMES.index(name) + 1 for name in limb] for limb in LIMBS]
    category = {"id": 1, "name": "person", "keypoints": NAMES, "skeleton": skeleton}
    write_json(path, {"info": info or {}, "images": images, "annotations": annotations, "categories": [category]})


def openpose_person(person: np.ndarray) -> list[float]:
    """(J, 3) as OpenPose's BODY_25 list of 75 numbers."""
    found = dict(zip(NAMES, person.round(3).tolist(), strict=False))
    return [value for name in BODY_25 for value in found.get(name, (0, 0, 0))]
