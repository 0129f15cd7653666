"""Draw the project's own data set: a dancer in a studio, one pose picture per frame, in the layout of the course.

Units: metres, seconds, radians in the scene, pixels in the pictures. x points right, y up, z away from the camera; yaw
0 faces the camera, yaw pi/2 the right edge. Solids are convex hulls of spheres. Poses have the joints and colours of
OpenPose's BODY_25 (Cao et al. 2019). Arrays: T frames, H x W pixels, n spheres of a solid, J = 21 joints.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from dancer import CLOTHES, make_motion, make_skeleton, make_solids, other_clothes
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from modules.pose.keypoints import openpose_person, write_coco
from modules.pose.output import check_out, new_dataset
from modules.pose.skeleton import LINE, NAMES, SUPERSAMPLE, hull, paint, pose_polygons
from modules.progress import Progress
from modules.runtime import InputError

PROGRAM = "make_dataset"
CAMERA_HEIGHT, CAMERA_DISTANCE, FOCAL, HORIZON = 1.1, 6.0, 2.4, 0.47  # m, m, picture heights, share of the height
WALL = 2.2  # m behind the middle of the stage
CLIP_OFFSET = 10000  # training clips start at multiples of it: a jump in the frame numbers is a cut


class Scene(NamedTuple):
    """Who dances where before which camera, and the size of the picture in pixels."""

    height: int
    width: int
    body: float = 1.0  # the dancer's size; his steps grow with him
    offset: tuple[float, float] = (0.0, 0.0)  # m to the right and away from the camera
    camera_height: float = CAMERA_HEIGHT  # m
    camera_distance: float = CAMERA_DISTANCE  # m from the middle of the stage
    clothes: dict = CLOTHES

    def larger(self, times):
        return self._replace(height=times * self.height, width=times * self.width)

    def project(self, points):
        """Points (..., 3) of the dance in m to pixels (..., 2), and the pixels per metre of the dancer there (...)."""
        points = self.body * points + (self.offset[0], 0, self.offset[1])
        scale = FOCAL * self.height / (points[..., 2] + self.camera_distance)
        across = self.width / 2 + points[..., 0] * scale
        down = HORIZON * self.height + (self.camera_height - points[..., 1]) * scale
        return np.stack([across, down], -1), self.body * scale


COUNTS = {  # options: (default, least, help)
    "seed": (0, 0, "what all motion is drawn from"), "height": (32, 16, "picture height in pixels, a multiple of 8"),
    "width": (64, 16, "picture width in pixels, a multiple of 8"),
    "train_frames": (1200, 2, "training frames, all clips together"), "train_clips": (3, 1, "training clips"),
    "val_frames": (630, 2, "validation frames"), "test_sequences": (2, 1, "test sequences"),
    "test_frames": (630, 2, "frames of each test sequence"),
    "broken_run": (4, 1, "most frames in a row whose poses are broken, see --broken_poses")}

NUMBERS = {  # options: (default, least, most, help)
    "height_factor": (1.0, 0.5, 1.5, "the dancer's height, of the usual 1.7 m; his steps grow with him"),
    "leg_factor": (1.0, 0.7, 1.3, "the length of his legs, of the usual one"),
    "camera_height": (CAMERA_HEIGHT, 0.3, 2.0, "m"),
    "camera_distance": (CAMERA_DISTANCE, 3.0, 12.0, "m from the middle of the stage")}

SHADES = ((1.0, 0.74), (0.8, 0.95), (0.45, 1.12))  # (share of the radius, brightness), from the rim to the light
LIGHT = (-0.35, -0.5)  # where the light comes from, in the picture

LOSSES = [".*", "right_(hip|knee|ankle|toe)", "left_(hip|knee|ankle|toe)", "(right|left)_(elbow|wrist)"]


def dancer_polygons(skeleton, scene):
    """The dancer, shaded; farther limbs are darker."""
    depths, solid_polygons = [], []
    for colour, bias, spheres in make_solids(skeleton, scene.clothes):
        points = np.stack([centre for centre, _ in spheres], 1)  # (T, n, 3)
        centres, scale = scene.project(points)
        radii, depth = scale * [radius for _, radius in spheres], points[..., 2].mean(1)
        depths.append(depth - bias)
        near = 1 - 0.5 * np.clip(depth - skeleton["middle_hip"][:, 2], -0.2, 0.4)
        layers = []
        for size, brightness in SHADES:
            shades = np.minimum(np.multiply.outer(near * brightness, colour), 255).astype(int).tolist()
            layers.append(zip(hull(centres + (1 - size) * radii[..., None] * LIGHT, size * radii),
                              map(tuple, shades), strict=True))
        solid_polygons.append(list(zip(*layers, strict=True)))
    order = np.argsort(-np.stack(depths, 1), axis=1, kind="stable")
    return [[layer for solid in solids for layer in solid_polygons[solid][t]] for t, solids in enumerate(order)]


def draw_studio(scene):
    """The empty studio (H, W, 3) in 0..1: lamps over a grey wall, a floor line, darker sides."""
    height, width = scene.height, scene.width
    down, across = (np.arange(height) + 0.5)[:, None] / height, (np.arange(width) + 0.5 - width / 2) / height
    below = down - HORIZON - scene.camera_height * FOCAL / (scene.camera_distance + WALL)  # the floor line
    light = 0.58 + 0.1 * down + 0.05 * np.tanh(below / 0.015) - 0.13 * np.exp(-(below / 0.018) ** 2)
    light = light + 0.14 * np.exp(-((across + 0.2) / 0.7) ** 2 - ((down - 0.6) / 0.35) ** 2)
    light -= 0.1 * (across * height / width * 2) ** 2
    for lamp in np.arange(-np.ceil(width / height), np.ceil(width / height) + 1) * 0.8 + 0.13:
        light += 0.3 * np.exp(-((across - lamp) / 0.22) ** 2 - ((down + 0.04) / 0.2) ** 2)
    return np.clip(light[..., None] * (1.0, 0.985, 0.955), 0, 1)


def draw_shadows(skeleton, scene):
    """The light (T, H, W) that feet and body leave on the floor; 1 without shadow."""
    light = 1.0
    for name, size, depth in (("right_ankle", 0.13, 0.42), ("left_ankle", 0.13, 0.42), ("middle_hip", 0.32, 0.3)):
        centre, scale = scene.project(skeleton[name] * (1, 0, 1))
        across = np.exp(-((np.arange(scene.width) + 0.5 - centre[:, :1]) / (size * scale[:, None])) ** 2)
        down = np.exp(-((np.arange(scene.height) + 0.5 - centre[:, 1:]) / (0.3 * size * scale[:, None])) ** 2)
        strength = depth * np.exp(-np.maximum(skeleton[name][:, 1] - 0.1, 0) / 0.8)  # fainter under a lifted foot
        light = light * (1 - strength[:, None, None] * down[:, :, None] * across[:, None, :])
    return light


def find_joints(skeleton, generator, scene):
    """What a pose detector would find: pixels (T, J, 2), a little off, and which joints it sees, bool (T, J)."""
    pixels = scene.project(np.stack([skeleton[name] for name in NAMES], 1))[0]
    pixels += generator.normal(0, 0.003 * scene.height, pixels.shape)
    seen = np.all((pixels > 0) & (pixels < (scene.width, scene.height)), axis=-1)
    for name, ahead, aside, least in (("nose", 1, 0, -0.4), ("right_eye", 0.9, 0.4, 0), ("left_eye", 0.9, -0.4, 0),
                                      ("right_ear", 0, 1, -0.35), ("left_ear", 0, -1, -0.35)):
        seen[:, NAMES.index(name)] &= -(ahead * skeleton["face"] + aside * skeleton["cheek"])[:, 2] > least
    return pixels, seen


def break_poses(seen, generator, share, longest):
    """Lose a leg, the forearms or all joints of `seen` in runs of up to `longest` frames, never in the first frame."""
    left, loss = np.arange(1, len(seen)), LOSSES[0]
    wanted = min(max(1, round(share * len(seen))), len(left)) if share > 0 else 0
    while wanted:
        run = left[left >= generator.choice(left)][:min(generator.integers(1, longest + 1), wanted)]
        seen[np.ix_(run, [bool(re.fullmatch(loss, name)) for name in NAMES])] = False
        left, wanted, loss = np.setdiff1d(left, run), wanted - len(run), generator.choice(LOSSES)


def write_sequence(folders, frames, seed, first_number, broken, scene, legs, progress):
    """Draw a sequence from its own seeds into the folders of frames and of poses. Returns its joints (T, J, 3), as
    (x, y, 1 or 0 if not seen), in pixels. broken: share and longest run, see break_poses."""
    motion_random, joint_random, break_random = (np.random.default_rng([*seed, stream]) for stream in range(3))
    reach = max(scene.width / scene.height * CAMERA_DISTANCE / FOCAL / 2 - 0.4, 0.1)  # m, where the picture ends
    large, studio = scene.larger(SUPERSAMPLE), draw_studio(scene)
    everything = make_skeleton(make_motion(motion_random, frames, reach), legs)
    pixels, seen = find_joints(everything, joint_random, large)
    break_poses(seen, break_random, *broken)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, frames, 64):  # bounds the memory
        some = slice(start, start + 64)
        skeleton = {name: v[some] for name, v in everything.items()}
        drawn = zip(draw_shadows(skeleton, scene), dancer_polygons(skeleton, large),
                    pose_polygons(pixels[some], seen[some], large.height), strict=True)
        for number, (light, dancer, pose) in enumerate(drawn, first_number + start):
            frame = Image.fromarray(np.rint(255 * studio * light[..., None]).astype(np.uint8))
            paint(dancer, frame).save(folders[0] / f"frame{number:06d}.png")
            paint(pose, Image.new("RGB", (scene.width, scene.height), "white")).save(
                folders[1] / f"frame{number:06d}.png")
            progress.update()
    return np.concatenate([pixels / SUPERSAMPLE, np.ones_like(pixels[..., :1])], -1) * seen[..., None]


def write_keypoints(out, joints, scene):
    """What a detector would write: openpose/, a folder beside each of poses, and keypoints.json of the training frames.

    joints: {folder of frames: [(first frame number, (T, J, 3)), ...]}
    """
    for folder, clips in joints.items():
        poses = out / "openpose" / re.sub(r"/\w+_(img|gt)", "", folder)  # train, val, test/<i>
        poses.mkdir(parents=True)
        for first_number, clip in clips:
            for number, person in enumerate(clip, first_number):
                people = [{"person_id": [-1], "pose_keypoints_2d": openpose_person(person)}] if person.any() else []
                text = json.dumps({"version": 1.3, "people": people})
                (poses / f"frame{number:06d}_keypoints.json").write_text(text, encoding="utf-8")
    train = joints["train/train_img"]
    names = [f"train/train_img/frame{first + t:06d}.png" for first, clip in train for t in range(len(clip))]
    people = [person[None] if person.any() else person[:0] for _, clip in train for person in clip]
    info = {"limb": LINE * scene.height, "least": 0, "min_confidence": 0.5}
    write_coco(out / "keypoints.json", names, people, scene.height, scene.width, info)


def write_dataset(out, args):
    """Write train, val and test below a new folder. Each sequence has its own seed: (seed, split, index)."""
    scene = Scene(args.height, args.width, args.height_factor, tuple(args.offset), args.camera_height,
                  args.camera_distance, CLOTHES if args.colors is None else other_clothes(args.colors))
    broken, whole = (args.broken_poses, args.broken_run), (0, 1)
    sequences = [(("train/train_img", "train/train_label"), args.train_frames // args.train_clips + (
        clip < args.train_frames % args.train_clips), (args.seed, 0, clip), clip * CLIP_OFFSET, broken)
        for clip in range(args.train_clips)]
    sequences += [(("val/val_img", "val/val_label"), args.val_frames, (args.seed, 1, 0), 0, whole)]
    sequences += [((f"test/test_gt/{index}", f"test/test_label/{index}"), args.test_frames, (args.seed, 2, index), 0,
                   broken if index == 0 else whole) for index in range(args.test_sequences)]
    joints = {}
    with Progress("drawing", sum(sequence[1] for sequence in sequences), "frame") as progress:
        for folders, *rest in sequences:
            clip = write_sequence([out / folder for folder in folders], *rest, scene, args.leg_factor, progress)
            joints.setdefault(folders[0], []).append((rest[2], clip))
    for truth in (out / "test/test_gt").glob("*/frame000000.png"):
        given = out / "test/test_img" / truth.parent.name
        given.mkdir(parents=True)
        (given / truth.name).write_bytes(truth.read_bytes())
    if args.keypoints:
        write_keypoints(out, joints, scene)


def check(args):
    """Raise ValueError if the arguments make no sense or something in OUT would be lost."""
    for name, (_, least, _) in COUNTS.items():
        if getattr(args, name) < least:
            raise ValueError(f"--{name} {getattr(args, name)} is less than {least}")
        if name.endswith("frames") and getattr(args, name) > 10 ** 6:
            raise ValueError(f"--{name} {getattr(args, name)} is too many for the six digits of the file names")
        if name in ("height", "width") and getattr(args, name) % 8:
            raise ValueError(f"--{name} {getattr(args, name)} is not a multiple of 8")
    if not 2 <= args.train_frames / args.train_clips < CLIP_OFFSET - 100 or args.train_clips > 100:
        raise ValueError(f"{args.train_frames} training frames do not go into {args.train_clips} clips: "
                         f"2 to {CLIP_OFFSET - 100} each, at most 100 clips")
    if not 0 <= args.broken_poses < 1:
        raise ValueError(f"--broken_poses {args.broken_poses} is not a share from 0 to below 1")
    for name, (_, least, most, _) in NUMBERS.items():
        if not least <= getattr(args, name) <= most:
            raise ValueError(f"--{name} {getattr(args, name)} is not between {least} and {most}")
    if not all(-1.5 <= value <= 1.5 for value in args.offset):
        raise ValueError(f"--offset {args.offset[0]} {args.offset[1]} is not within 1.5 m of the middle of the stage")
    if args.colors is not None and args.colors < 0:
        raise ValueError(f"--colors {args.colors} is less than 0")
    check_out(args.out, PROGRAM, args.overwrite)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: error: {message}\n")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for train, val and test; new or empty")
    for name, (default, _, text) in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=text)
    parser.add_argument("--broken_poses", type=float, default=0.01, metavar="SHARE",
                        help="share of poses that are blank or miss limbs, in training and in test sequence 0")
    for name, (default, _, _, text) in NUMBERS.items():
        parser.add_argument(f"--{name}", type=float, default=default, metavar="X", help=text)
    parser.add_argument("--offset", type=float, nargs=2, default=[0.0, 0.0], metavar=("X", "Z"),
                        help="where he stands, m to the right and away from the camera")
    parser.add_argument("--colors", type=int, metavar="SEED", help="other clothes, skin and hair, drawn from a seed")
    parser.add_argument("--keypoints", action="store_true", help="also write his joints: OUT/openpose, a JSON a frame "
                        "as OpenPose writes them, and OUT/keypoints.json for drive.py")
    parser.add_argument("--overwrite", action="store_true", help="replace a set that this script wrote into OUT before")
    args = parser.parse_args()
    try:
        check(args)
        settings = {name: value for name, value in vars(args).items() if name != "out"}
        with new_dataset(args.out, PROGRAM, args.overwrite, settings) as new:
            write_dataset(new, args)
    except (InputError, OSError, ValueError) as problem:
        parser.error(str(problem))
    except KeyboardInterrupt:
        sys.exit("interrupted, nothing written")


if __name__ == "__main__":
    main()
