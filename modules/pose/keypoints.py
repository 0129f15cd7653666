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
from modules.pose.skeleton import NAMES
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
ORDERS = {0: [], 25: BODY_25, 23: BODY_23, 18: COCO_18, 33: BLAZE, **dict.fromkeys((17, 26, 133, 136), COCO_17)}
MIDDLES = {"neck": ("right_shoulder", "left_shoulder"), "middle_hip": ("right_hip", "left_hip")}
ENDINGS = ("_keypoints.json", "_pose.yml", "_keypoints.yml", ".json")  # of the files of a folder, a file a frame
EXPECTED = ("OpenPose's --write_json or --write_keypoint, COCO JSON, COCO results (YOLO: save_json=True, AlphaPose: "
            "without --format open), MMPose's JSON")


class Found(NamedTuple):
    """A person that a detector found in a frame."""

    joints: np.ndarray  # (J, 3)
    score: float  # [0, 1], the detector's own, else the mean confidence of the joints that it found
    track: str  # its number for this person through the video, "" without one


class Keypoints(NamedTuple):
    """What a detector wrote: the people of its frames, by the frame's name or number."""

    path: Path
    form: str
    complete: bool  # whether frames without a person are there, too
    frames: dict[str, list[Found]]
    info: dict

    def matched(self, video: Video | None = None) -> list[list[Found]]:
        """The people of every frame of the video, or, without one, of every frame from the first to the last. Prints
        what was recognised and what is missing; InputError where they are not this video's."""
        names = [re.sub(r"\.[A-Za-z]\w*$", "", Path(name).name) for name in self.frames]
        numbers, choice = frame_numbers(names)
        if video and video.files:
            own = {file.stem: number for number, file in video.files.items()}
            numbers = [own.get(name, number) for name, number in zip(names, numbers, strict=True)]
        first, last = min(numbers, default=0), max(numbers, default=0)
        if len(set(numbers)) < len(numbers) or first < 0 or last - first >= MAX_FRAMES:
            raise InputError(f"{self.path}: {', '.join(sorted(names)[:NAMED])[:99]}, …: several frames with one number "
                             f"or none, or over {MAX_FRAMES:,}; expected one video's, names like video_000012")
        wanted, people = frames_of(video, numbers, self.complete), dict(zip(numbers, self.frames.values(), strict=True))
        missing = [str(number) for number in wanted if number not in people]
        print(f"{self.path}: {self.form}, {len(numbers):,} frames, numbered {first} to {last}, for the frames from "
              f"{min(wanted, default=0)} on" + f"; {choice}" * bool(choice))
        if set(numbers) - set(wanted) or self.complete and 2 * len(missing) > len(wanted):
            raise InputError(f"{self.path}: {len(numbers)} frames, numbered {first} to {last}; the video has "
                             f"{len(wanted)}, {len(missing)} of them have none; expected the keypoints of this video")
        if missing:
            print(f"{self.path}: {len(missing):,} frames have no keypoints: nobody is there: "
                  f"{', '.join(missing[:NAMED])}" + ", …" * (len(missing) > NAMED))
        return [people.get(number, []) for number in wanted]


def frames_of(video: Video | None, numbers: list[int], complete: bool) -> Sequence[int]:
    """The video's frames as their keypoints number them. complete: these have all frames, also those without people."""
    first, last = min(numbers, default=0), max(numbers, default=-1)
    if video and video.files:
        return list(video.files)
    if complete and (video is None or len(numbers) == len(video.times)):
        return sorted(numbers)
    if video is None:
        return range(first, last + 1)
    begin = int(first == 1 or last == len(video.times))  # else 0
    return range(begin, begin + len(video.times))


def read_keypoints(path: Path) -> Keypoints:
    """Read and recognise a detector's file, or folder with a file a frame. InputError names what was found instead."""
    files, ending, found = [path], path.suffix, f"a {path.suffix} file" if path.is_file() else "not found"
    if path.is_dir():
        names = sorted(file.name for file in path.iterdir() if visible(file.name))
        ending = next((ending for ending in ENDINGS if any(name.endswith(ending) for name in names)), "")
        files = [path / name for name in names if name.endswith(ending)]
        found = f"a folder of {len(names)} files, {', '.join(names[:NAMED])}"
    if not path.exists() or not ending.endswith((".json", ".yml")):
        raise InputError(f"{path}: {found}; expected {EXPECTED}")
    frames: dict[str, list[Found]] = {}
    for file in files:
        contents = read_json(file) if ending.endswith(".json") else file.read_text(encoding="utf-8", errors="replace")
        try:
            form, listed, people = read_form(contents, file.name.removesuffix(ending))
            frames |= {str(name): [] for name in listed}
            for name, item in people:
                frames.setdefault(str(name), []).extend(to_found(item, file))
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError):
            raise InputError(f"{file}: an unknown form, {str(contents)[:80]} …; expected {EXPECTED}") from None
    info = contents.get("info") if form == "COCO JSON" else {}
    return Keypoints(path, form, form != "COCO results", frames, info if isinstance(info, dict) else {})


def read_form(contents: Any, file: str) -> tuple[str, list, list[tuple[Any, dict]]]:
    """The form, the frames that it lists, and every person with its frame: `file` where a file holds one frame. Another
    form raises one of many errors."""
    match contents:
        case {"images": images, "annotations": people}:
            names = {image["id"]: image.get("file_name", image["id"]) for image in images}
            orders = [kind["keypoints"] for kind in contents.get("categories", []) if "keypoints" in kind]
            joints = {"names": next((order for order in orders if set(COCO_17) <= set(map(str, order))), COCO_17)}
            return "COCO JSON", list(names.values()), [(names[item["image_id"]], item | joints) for item in people]
        case {"people": people}:
            return "OpenPose's JSON", [file], [(file, item) for item in people]
        case {"instance_info": frames} | ([{"frame_id": _}, *_] as frames):
            people = [(frame["frame_id"], item) for frame in frames for item in frame["instances"]]
            return "MMPose's instances", [frame["frame_id"] for frame in frames], people
        case [{"image_id": _}, *_]:
            return "COCO results", [], [(item["image_id"], item) for item in contents]
        case [{"keypoints": _}, *_] | []:
            return "a list of people a frame", [file], [(file, item) for item in contents]
        case str():  # a matrix [people, joints, 3]
            sizes, data = (re.findall(rf"{key}: *\[([^]]*)\]", contents)[0].split(",") for key in ("sizes", "data"))
            people = np.array(data, float).reshape([int(size) for size in sizes])
            return "OpenPose's YAML", [file], [(file, {"keypoints": person}) for person in people]
    raise TypeError


def to_found(item: dict, file: Path) -> list[Found]:
    """A person that a file lists; none where no joint was found."""
    values = item.get("pose_keypoints_2d", item.get("keypoints", []))
    if "keypoint_scores" in item:
        values = np.column_stack([values, item["keypoint_scores"]])
    joints = to_person(values, file, item.get("names"))
    if not joints[:, 2].any():
        return []
    score = item.get("score", item.get("bbox_score", joints[joints[:, 2] > 0, 2].mean()))
    track = str(item.get("track_id", item.get("idx", ""))).strip("[]").removesuffix(".0")  # AlphaPose's: 4.0 or [4]
    return [Found(joints, min(1.0, float(score)), track)]


def to_person(values: Any, file: Path, names: list[str] | None = None) -> np.ndarray:
    """(J, 3) of a detector's list x, y, confidence, …; neck and middle hip are made where it has none."""
    numbers = np.array(values, dtype=float).ravel()
    joints, rest = divmod(numbers.size, 3)
    names = names if names and len(names) == joints else ORDERS.get(joints)
    if rest or names is None:
        raise InputError(f"{file}: {numbers.size} numbers for a person, {joints} joints; expected 3 numbers each for "
                         f"{', '.join(map(str, sorted(ORDERS)[1:]))} joints")
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
    people: list[list[Found]], least: float, cuts: Collection[int] = (), who: str | None = None,
    numbers: Sequence[int] | None = None,
) -> np.ndarray:
    """One person through all frames: (T, J, 3), zeros in frames without the person. Warns of frames from which on
    another person may be followed: another number, several people after a gap, half a body height away.

    First the person with the largest score times height, or who: "I" the one from the left (0-based), "id:N" the one
    with the detector's number N. Then the one of the same number, or the one nearest to the last position. A person
    farther away than one body height (plus 10 % per missed frame) is a different person, except after a cut. People
    with a score below LEAST_SCORE and joints with a confidence below `least` do not count.
    cuts: the first frames after cuts. numbers: of the frames, for the warning.
    """
    tracks = sorted({person.track for frame in people for person in frame} - {""})
    if who and who.startswith("id:"):
        if who[3:] not in tracks:
            raise InputError(f"--person {who}: the keypoints have the numbers {', '.join(tracks[:9]) or 'of nobody'}")
        people, who = [[person for person in frame if person.track == who[3:]] for frame in people], None
    if any(len({person.track for person in frame}) < len(frame) for frame in people):
        tracks = []  # several people have one number
    joints, last, missed, track, changes = np.zeros((len(people), len(NAMES), 3)), None, 0, "", []
    for t, frame in enumerate(people):
        missed = np.inf if t in cuts else missed + 1
        found = [person for person in frame if person.score >= LEAST_SCORE
                 and (person.joints[:, 2] >= least).sum() >= FEWEST]
        if not found:
            continue
        visible = [np.where(person.joints[:, 2:] >= least, person.joints[:, :2], np.nan) for person in found]
        same = [i for i, person in enumerate(found) if track in tracks and person.track == track]
        if last is None:
            chosen = first_person(found, visible, who)
        elif same:
            chosen = same[0]
        else:
            distances = [distance(person, last) for person in visible]
            chosen = int(np.argmin(distances))
            if distances[chosen] > height_of(last) * (1 + 0.1 * (missed - 1)):
                continue
            if track in tracks or len(found) > 1 and missed > 1 or distances[chosen] > height_of(last) / 2:
                changes.append(str(t if numbers is None else numbers[t]))
        joints[t], last, missed, track = found[chosen].joints, visible[chosen], 0, found[chosen].track
    if changes:
        print(f"warning: from frames {', '.join(changes[:NAMED])} on ({len(changes)} in all) another person may be "
              "followed; see --person id:N", file=sys.stderr)
    return joints


def first_person(found: list[Found], visible: list[np.ndarray], who: str | None) -> int:
    """Whom to follow among the people of the first frame that has any: see follow."""
    if who is None:
        return int(np.argmax([person.score * height_of(xy) for person, xy in zip(found, visible, strict=True)]))
    if who not in map(str, range(len(found))):
        raise InputError(f"--person {who}: the first frame with people has {len(found)}; expected 0 to "
                         f"{len(found) - 1}, counted from the left")
    return int(np.argsort([np.nanmedian(person[:, 0]) for person in visible], kind="stable")[int(who)])


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
    category = {"id": 1, "name": "person", "keypoints": NAMES}
    write_json(path, {"info": info or {}, "images": images, "annotations": annotations, "categories": [category]})


def openpose_person(person: np.ndarray) -> list[float]:
    """(J, 3) as OpenPose's BODY_25 list of 75 numbers."""
    found = dict(zip(NAMES, person.round(3).tolist(), strict=False))
    return [value for name in BODY_25 for value in found.get(name, (0, 0, 0))]
