"""Keypoints as detectors write them: recognised by their form, matched to the frames of a video, one person followed.

Inside the project a person is (J, 3): x, y in pixels and a confidence in [0, 1], 0 where the joint was not found, in
the order of skeleton.NAMES.
"""

import re
import sys
from collections.abc import Collection, Sequence
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
BLAZE = ["nose", "", "left_eye", "", "", "right_eye", "", "left_ear", "right_ear", "", "", *COCO_17[5:11], *[""] * 6,
         *COCO_17[11:], "left_heel", "right_heel", "left_toe", "right_toe"]
# the names of the first joints of a person, by the number of joints
ORDERS = {25: BODY_25, 23: BODY_23, 18: COCO_18, 33: BLAZE, **dict.fromkeys((17, 26, 133, 136), COCO_17)}
MIDDLES = {"neck": ("right_shoulder", "left_shoulder"), "middle_hip": ("right_hip", "left_hip")}
FOLDERS = {"_keypoints.json": "OpenPose's JSON files", "_pose.yml": "OpenPose's YAML files",
           "_keypoints.yml": "OpenPose's YAML files", ".json": "a JSON file a frame"}
SWITCHES = {".txt": "YOLO: save_json=True writes COCO results", ".png": "OpenPose: --write_json writes keypoints",
            ".jpg": "OpenPose: --write_json writes keypoints", "bodies": "AlphaPose's --format open: leave it out"}
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
        """The people of every frame of the video, by name where it is a folder of images, else by number; of every
        frame from the first to the last where there is no video. Prints what was recognised and what is missing;
        InputError where they are not this video's."""
        stems = [re.sub(r"\.[A-Za-z]\w*$", "", Path(name).name) for name in self.frames]
        keys, choice = frame_numbers(stems)
        first, last = min(keys, default=0), max(keys, default=0)
        if len(set(keys)) < len(keys) or first < 0 or last - first >= MAX_FRAMES:
            raise InputError(f"{self.path}: {', '.join(sorted(stems)[:NAMED])[:99]}, …: several frames with one number "
                             f"or none, or over {MAX_FRAMES:,}; expected one video's, names like video_000012")
        wanted = sorted(keys) if self.complete else list(range(first, last + 1))
        if video and video.files:
            wanted, names = list(video.files), [path.stem for path in video.files.values()]
            if set(stems) & set(names):
                keys, wanted = stems, names
        elif video and not (self.complete and len(keys) == len(video.times)):  # numbers begin at 0, or at 1
            start = int(last == len(video.times) or first == 1 and not self.complete)
            wanted = list(range(start, start + len(video.times)))
        places = dict(zip(keys, self.frames.values(), strict=True))
        missing = [key for key in wanted if key not in places]
        print(f"{self.path}: {self.form}, {len(keys):,} frames, numbered {first} to {last}"
              + f" ({wanted[0]} is the video's first)" * bool(video) + f"; {choice}" * bool(choice))
        if set(places) - set(wanted) or self.complete and 2 * len(missing) > len(wanted):
            raise InputError(f"{self.path}: {len(keys)} frames, numbered {first} to {last}; the video has "
                             f"{len(wanted)}, {len(missing)} of them have none; expected the keypoints of this video")
        if missing:
            print(f"{self.path}: {len(missing):,} frames have no keypoints: nobody is there: "
                  f"{', '.join(map(str, missing[:NAMED]))}" + ", …" * (len(missing) > NAMED))
        return [places.get(key, []) for key in wanted]


def read_keypoints(path: Path) -> Keypoints:
    """Read and recognise a detector's file or folder. InputError names what was found in place of a known form."""
    if path.is_dir():
        return read_folder(path)
    if path.suffix != ".json" or not path.is_file():
        found = f"a {path.suffix} file ({SWITCHES.get(path.suffix, 'not known')})" if path.is_file() else "not found"
        raise InputError(f"{path}: {found}; expected {EXPECTED}")
    contents, names = read_json(path), None
    try:
        images, form, people = read_form(contents)
        if form == "COCO JSON":
            given = [item["keypoints"] for item in contents.get("categories", []) if "keypoints" in item]
            names = next((order for order in given if set(COCO_17) <= set(map(str, order))), COCO_17)
        frames = {str(name): [] for name in images}
        for name, person in people:
            frames.setdefault(str(name), []).extend(to_people([person], path, names))
    except (AttributeError, KeyError, TypeError):
        item = contents[0] if isinstance(contents, list) and contents else contents
        found = "an object" if item is contents else "a list of objects"
        found += f" with {', '.join(map(str, item))[:99]}" if isinstance(item, dict) else " of no names"
        switch = SWITCHES["bodies"] if '"bodies"' in path.read_text(encoding="utf-8") else "not known"
        raise InputError(f"{path}: JSON of no known form ({found}; {switch}); expected {EXPECTED}") from None
    info = contents.get("info") if form == "COCO JSON" else None
    return Keypoints(path, form, bool(images), frames, info if isinstance(info, dict) else {})


def read_form(contents: Any) -> tuple[list, str, list[tuple[Any, dict]]]:
    """All frames where the form tells them, the form, and every person with its frame. Another form raises KeyError or
    TypeError."""
    if isinstance(contents, dict) and "images" in contents:
        images = {image["id"]: image.get("file_name", image["id"]) for image in contents["images"]}
        people = [(images[item["image_id"]], item) for item in contents["annotations"]]
        return list(images.values()), "COCO JSON", people
    frames = contents if isinstance(contents, list) else contents["instance_info"]
    if frames and "frame_id" in frames[0]:
        people = [(frame["frame_id"], person) for frame in frames for person in frame["instances"]]
        return [frame["frame_id"] for frame in frames], "MMPose's instances", people
    return [], "COCO results", [(item["image_id"], item) for item in frames]


def read_folder(folder: Path) -> Keypoints:
    """A file a frame: OpenPose's JSON or YAML, or JSON that is a list of a frame's people."""
    names = sorted(path.name for path in folder.iterdir() if visible(path.name))
    suffix = next((suffix for suffix in FOLDERS if any(name.endswith(suffix) for name in names)), None)
    if suffix is None:
        switch = SWITCHES.get(Path(names[0]).suffix if names else "", "not known")
        raise InputError(f"{folder}: no *_keypoints.json in it, but {len(names)} files, {', '.join(names[:NAMED])} "
                         f"({switch}); expected {EXPECTED}")
    frames = {}
    for file in (folder / name for name in names if name.endswith(suffix)):
        contents = read_yaml(file) if file.suffix == ".yml" else read_json(file)
        try:
            people = to_people(contents if isinstance(contents, list) else contents["people"], file)
        except (AttributeError, KeyError, TypeError):
            raise InputError(f'{file}: no list "people" in it; expected {EXPECTED}') from None
        frames[file.name.removesuffix(suffix)] = people
    return Keypoints(folder, FOLDERS[suffix], True, frames, {})


def read_yaml(file: Path) -> list[dict]:
    """The people of OpenPose's --write_keypoint: a matrix [people, joints, 3] in OpenCV's YAML."""
    text = file.read_text(encoding="utf-8", errors="replace")
    sizes, data = (re.search(rf"{key}: *\[([^]]*)\]", text) for key in ("sizes", "data"))
    try:
        people = np.array(data[1].split(","), float).reshape([int(size) for size in sizes[1].split(",")])
    except (TypeError, ValueError):
        raise InputError(f"{file}: no matrix of keypoints in it; expected OpenPose's YAML") from None
    return [{"keypoints": person.tolist()} for person in people]


def to_people(items: list[dict], file: Path, names: list[str] | None = None) -> list[Found]:
    """The people that a file lists for a frame; one without joints is left out. No people raise TypeError and such."""
    people = []
    for item in items:
        values = item.get("keypoints") or item.get("pose_keypoints_2d") or []
        if "keypoint_scores" in item:
            values = [[*point, score] for point, score in zip(values, item["keypoint_scores"], strict=False)]
        joints = to_person(values, file, names) if values else np.zeros((1, 3))
        if joints[:, 2].any():
            scores = [item[key] for key in ("score", "bbox_score") if isinstance(item.get(key), (int, float))]
            tracks = [item[key] for key in ("track_id", "idx") if item.get(key) is not None]
            score = scores[0] if scores else float(joints[joints[:, 2] > 0, 2].mean())
            track = str(tracks[0]).strip("[]").removesuffix(".0") if tracks else None
            people.append(Found(joints, min(1.0, score), track))
    return people


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
    people: list[list[Found]], min_confidence: float, cuts: Collection[int] = (), who: str | None = None,
    numbers: Sequence[int] | None = None,
) -> np.ndarray:
    """One person through all frames: (T, J, 3), zeros in frames without the person. Warns of frames from which on
    another person may be followed: the detector's number changes, or several people are there after a gap.

    First the person with the largest score times height, or who: "I" the one from the left (0-based), "id:N" the one
    with the detector's number N, in all frames. Then the one of the same number, or the one nearest to the last
    position. A person farther away than one body height (plus 10 % per missed frame) is a different person, except
    after a cut. People with a score below LEAST_SCORE are left out.
    cuts: the first frames after cuts. numbers: of the frames, for the warning.
    """
    joints, last, missed, changes = np.zeros((len(people), len(NAMES), 3)), None, 0, []
    wanted = track = who.removeprefix("id:") if who and who.startswith("id:") else None
    ids = sorted({person.track for frame in people for person in frame if person.track})
    if wanted and wanted not in ids:
        raise InputError(f"--person id:{wanted}: the keypoints have the numbers {', '.join(ids[:9]) or 'of nobody'}")
    tracked = all(len({person.track for person in frame}) == len(frame) for frame in people)  # else all have one number
    for t, frame in enumerate(people):
        missed = np.inf if t in cuts else missed + 1
        found = [person for person in frame if person.score >= LEAST_SCORE and wanted in (None, person.track)
                 and (person.joints[:, 2] >= min_confidence).sum() >= FEWEST]
        if not found:
            continue
        visible = [np.where(person.joints[:, 2:] >= min_confidence, person.joints[:, :2], np.nan) for person in found]
        same = [i for i, person in enumerate(found) if tracked and track and person.track == track]
        if same:
            chosen = same[0]
        elif last is not None:
            distances = [distance(person, last) for person in visible]
            chosen = int(np.argmin(distances))
            if distances[chosen] > height_of(last) * (1 + 0.1 * (missed - 1)):
                continue
            if tracked and found[chosen].track != track or len(found) > 1 and missed > 1:
                changes.append(numbers[t] if numbers is not None else t)
        elif who is None or wanted:
            chosen = int(np.argmax([person.score * height_of(xy) for person, xy in zip(found, visible, strict=True)]))
        elif who in map(str, range(len(found))):
            chosen = int(np.argsort([np.nanmedian(person[:, 0]) for person in visible], kind="stable")[int(who)])
        else:
            raise InputError(f"--person {who}: frame {t} is the first with people and has {len(found)}; expected 0 "
                             f"to {len(found) - 1}, counted from the left")
        joints[t], last, missed, track = found[chosen].joints, visible[chosen], 0, found[chosen].track
    if changes:
        print(f"warning: from frames {', '.join(map(str, changes[:NAMED]))} on ({len(changes)} in all) another person "
              "may be followed; see --person id:N", file=sys.stderr)
    return joints


def check_person(joints: np.ndarray, size: tuple[int, int], least: float, source: Path) -> None:
    """InputError where one person's joints (T, J, 3) show nobody, or are no pixels of frames of size (width, height).
    Warns of what makes poor poses. least: the least confidence of joints that are drawn."""
    seen, found = joints[joints[..., 2] >= max(least, 1e-9), :2], np.count_nonzero(joints[..., 2])
    if not len(seen):
        raise InputError(f"{source}: no person in it with {FEWEST} joints of --min_confidence {least} or more")
    if np.ptp(seen, axis=0).max() <= 2:
        raise InputError(f"{source}: coordinates from 0 to 1; expected pixels (OpenPose: --keypoint_scale 0)")
    outside, low = float(((seen < 0) | (seen > size)).any(axis=1).mean()), 1 - len(seen) / found
    if outside > 0.5:
        raise InputError(f"{source}: {outside:.0%} of the joints lie outside the {size[0]}x{size[1]} frames; expected "
                         "keypoints of this video at this size, rotated as it is shown, with square pixels")
    if outside > 0.02:
        print(f"warning: {outside:.0%} of the person's joints lie outside the frames", file=sys.stderr)
    if low > 0.25:
        print(f"warning: {low:.0%} of the person's joints are below --min_confidence {least}", file=sys.stderr)


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
    found = dict(zip(NAMES, person.round(3).tolist(), strict=False))
    return [value for name in BODY_25 for value in found.get(name, (0, 0, 0))]
