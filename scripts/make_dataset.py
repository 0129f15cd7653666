"""Draw the project's own data set: a dancer in a studio, one pose image per frame, in the layout of the course.

    python scripts/make_dataset.py data/dancer

Units: metres, seconds, radians in the scene, pixels in the images. x points right, y up, z away from the camera; yaw 0
faces the camera, yaw pi/2 the right edge. Solids are convex hulls of spheres. Poses have the joints and colours of
OpenPose's BODY_25 (Cao et al. 2019). Arrays: T frames, H x W pixels, n spheres of a solid, J = 21 joints.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from dancer import FRAMES_PER_SECOND, RIBBON, add_ribbon, make_motion, make_skeleton, make_solids
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from modules.files import write_json
from modules.options import number
from modules.pose.keypoints import openpose_person, write_coco
from modules.pose.output import new_dataset
from modules.pose.skeleton import JOINTS, LINE, NAMES, SUPERSAMPLE, hull, paint, pose_polygons
from modules.progress import Progress
from modules.runtime import InputError, run_program

CAMERA_HEIGHT, CAMERA_DISTANCE, FOCAL, HORIZON = 1.1, 6.0, 2.4, 0.47  # m, m, image heights, share of the height
WALL = 2.2  # m behind the middle of the stage
CLIP_OFFSET = 10000  # training clips start at multiples of it: a jump in the frame numbers is a cut


class Scene(NamedTuple):
    """The size of the image in pixels, and the size and place of the dancer."""

    height: int
    width: int
    body: float = 1.0  # scale of the dancer and of the dancer's steps
    offset: tuple[float, float] = (0.0, 0.0)  # m to the right and away from the camera
    ribbon: bool = False

    def project(self, points):
        """Points (..., 3) of the dance in m to pixels (..., 2), and the pixels per metre of the dancer there (...)."""
        points = self.body * points + (self.offset[0], 0, self.offset[1])
        scale = FOCAL * self.height / (points[..., 2] + CAMERA_DISTANCE)
        across = self.width / 2 + points[..., 0] * scale
        down = HORIZON * self.height + (CAMERA_HEIGHT - points[..., 1]) * scale
        return np.stack([across, down], -1), self.body * scale


OPTIONS = {  # name: (type, default, least, most, help)
    "seed": (int, 0, 0, 2**62, "seed of all motion"),
    "height": (int, 32, 16, 4096, "image height in pixels, a multiple of 8"),
    "width": (int, 64, 16, 4096, "image width in pixels, a multiple of 8"),
    "train_frames": (int, 1200, 2, 10**6, "training frames, all clips together"),
    "train_clips": (int, 3, 1, 100, "training clips"),
    "val_frames": (int, 630, 2, 10**6, "validation frames"),
    "test_sequences": (int, 2, 1, 1000, "test sequences"),
    "test_frames": (int, 630, 2, 10**6, "frames of each test sequence"),
    "broken_poses": (float, 0.01, 0, 1, "share of blank or incomplete poses, in training and in test sequence 0"),
    "height_factor": (float, 1.0, 0.5, 1.5, "height of the dancer, in units of 1.7 m; the steps grow with it"),
}

SHADES = ((1.0, 0.74), (0.8, 0.95), (0.45, 1.12))  # (share of the radius, brightness), from the rim to the light
LIGHT = (-0.35, -0.5)  # direction of the light in the image

BROKEN_RUN = 4  # frames, at most
LOSSES = [".*", "right_(hip|knee|ankle|toe)", "left_(hip|knee|ankle|toe)", "(right|left)_(elbow|wrist)"]


def dancer_polygons(skeleton, scene):
    """The dancer, shaded; farther limbs are darker."""
    depths, solid_polygons = [], []
    for colour, bias, spheres in make_solids(skeleton):
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
    below = down - HORIZON - CAMERA_HEIGHT * FOCAL / (CAMERA_DISTANCE + WALL)  # the floor line
    light = 0.58 + 0.1 * down + 0.05 * np.tanh(below / 0.015) - 0.13 * np.exp(-(below / 0.018) ** 2)
    light = light + 0.14 * np.exp(-((across + 0.2) / 0.7) ** 2 - ((down - 0.6) / 0.35) ** 2)
    light -= 0.1 * (across * height / width * 2) ** 2
    for lamp in np.arange(-np.ceil(width / height), np.ceil(width / height) + 1) * 0.8 + 0.13:
        light += 0.3 * np.exp(-((across - lamp) / 0.22) ** 2 - ((down + 0.04) / 0.2) ** 2)
    return np.clip(light[..., None] * (1.0, 0.985, 0.955), 0, 1)


def draw_shadows(skeleton, scene):
    """Factor (T, H, W) by which feet and body darken the floor; 1 without shadow."""
    light = 1.0
    for name, size, depth in (("right_ankle", 0.13, 0.42), ("left_ankle", 0.13, 0.42), ("middle_hip", 0.32, 0.3)):
        centre, scale = scene.project(skeleton[name] * (1, 0, 1))
        across = np.exp(-((np.arange(scene.width) + 0.5 - centre[:, :1]) / (size * scale[:, None])) ** 2)
        down = np.exp(-((np.arange(scene.height) + 0.5 - centre[:, 1:]) / (0.3 * size * scale[:, None])) ** 2)
        strength = depth * np.exp(-np.maximum(skeleton[name][:, 1] - 0.1, 0) / 0.8)  # fainter under a lifted foot
        light = light * (1 - strength[:, None, None] * down[:, :, None] * across[:, None, :])
    return light


def find_joints(skeleton, generator, scene):
    """Joints as a pose detector finds them: pixels (T, J, 2) with a small error, and which are seen, bool (T, J)."""
    pixels = scene.project(np.stack([skeleton[name] for name in JOINTS], 1))[0]
    pixels += generator.normal(0, 0.003 * scene.height, pixels.shape)
    seen = np.all((pixels > 0) & (pixels < (scene.width, scene.height)), axis=-1)
    for name, ahead, aside, least in (("nose", 1, 0, -0.4), ("right_eye", 0.9, 0.4, 0), ("left_eye", 0.9, -0.4, 0),
                                      ("right_ear", 0, 1, -0.35), ("left_ear", 0, -1, -0.35)):
        seen[:, NAMES.index(name)] &= -(ahead * skeleton["face"] + aside * skeleton["cheek"])[:, 2] > least
    return pixels, seen


def break_poses(seen, generator, share):
    """Lose a leg, the forearms or all joints of `seen` in runs of up to BROKEN_RUN frames, never in the first frame."""
    left, loss = np.arange(1, len(seen)), LOSSES[0]
    wanted = min(max(1, round(share * len(seen))), len(left)) if share > 0 else 0
    while wanted:
        run = left[left >= generator.choice(left)][:min(generator.integers(1, BROKEN_RUN + 1), wanted)]
        seen[np.ix_(run, [bool(re.fullmatch(loss, name)) for name in JOINTS])] = False
        left, wanted, loss = np.setdiff1d(left, run), wanted - len(run), generator.choice(LOSSES)


def write_sequence(folders, frames, seed, first_number, broken, scene, progress):
    """Draw a sequence from its own seeds into the folders of frames and of poses.

    broken: share of broken poses. Returns joints (T, J, 3): x, y in pixels, and 1, or 0 if not seen; and where a ribbon
    is tied to the hair (T, 2), as shares of the width and the height.
    """
    motion_random, joint_random, break_random = (np.random.default_rng([*seed, stream]) for stream in range(3))
    reach = max(scene.width / scene.height * CAMERA_DISTANCE / FOCAL / 2 - 0.4, 0.1)  # m to the edge of the image
    studio = draw_studio(scene)
    large = scene._replace(height=SUPERSAMPLE * scene.height, width=SUPERSAMPLE * scene.width)
    whole = make_skeleton(make_motion(motion_random, frames, reach))
    whole = add_ribbon(whole, np.random.default_rng([*seed, 3])) if scene.ribbon else whole
    pixels, seen = find_joints(whole, joint_random, large)
    break_poses(seen, break_random, broken)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, frames, 64):  # bounds the memory
        part = slice(start, start + 64)
        skeleton = {name: values[part] for name, values in whole.items()}
        drawn = zip(draw_shadows(skeleton, scene), dancer_polygons(skeleton, large),
                    pose_polygons(pixels[part], seen[part], large.height), strict=True)
        for index, (light, dancer, pose) in enumerate(drawn, first_number + start):
            frame = Image.fromarray(np.rint(255 * studio * light[..., None]).astype(np.uint8))
            paint(dancer, frame).save(folders[0] / f"frame{index:06d}.png")
            paint(pose, Image.new("RGB", (scene.width, scene.height), "white")).save(
                folders[1] / f"frame{index:06d}.png")
            progress.update()
    hair = scene.project(whole.get(RIBBON[0], whole["head"]))[0] / (scene.width, scene.height)
    joints = np.concatenate([pixels / SUPERSAMPLE, np.ones_like(pixels[..., :1])], -1) * seen[..., None]
    return np.pad(joints, [(0, 0), (0, len(NAMES) - len(JOINTS)), (0, 0)]), hair


def write_keypoints(out, joints, scene):
    """Write the joints as a detector would: openpose/ with a JSON per frame, and keypoints.json of the training frames.

    joints: {folder of frames: [(first frame number, (T, J, 3)), ...]}
    """
    for folder, clips in joints.items():
        poses = out / "openpose" / re.sub(r"/\w+_(img|gt)", "", folder)  # train, val, test/<i>
        poses.mkdir(parents=True)
        for first_number, clip in clips:
            for index, person in enumerate(clip, first_number):
                people = [{"person_id": [-1], "pose_keypoints_2d": openpose_person(person)}] if person.any() else []
                text = json.dumps({"version": 1.3, "people": people})
                (poses / f"frame{index:06d}_keypoints.json").write_text(text, encoding="utf-8")
    train = joints["train/train_img"]
    names = [f"train/train_img/frame{first + t:06d}.png" for first, clip in train for t in range(len(clip))]
    people = [person[None] if person.any() else person[:0] for _, clip in train for person in clip]
    info = {"widths": [LINE * scene.height, 0], "min_confidence": 0.5}
    write_coco(out / "keypoints.json", names, people, scene.height, scene.width, info)


def write_dataset(out, args):
    """Write train, val and test below a new folder. Each sequence has its own seed: (seed, split, index)."""
    scene = Scene(args.height, args.width, args.height_factor, tuple(args.offset), args.ribbon)
    sequences = [(("train/train_img", "train/train_label"), args.train_frames // args.train_clips + (
        clip < args.train_frames % args.train_clips), (args.seed, 0, clip), clip * CLIP_OFFSET, args.broken_poses)
        for clip in range(args.train_clips)]
    sequences += [(("val/val_img", "val/val_label"), args.val_frames, (args.seed, 1, 0), 0, 0)]
    sequences += [((f"test/test_gt/{index}", f"test/test_label/{index}"), args.test_frames, (args.seed, 2, index), 0,
                   args.broken_poses if index == 0 else 0) for index in range(args.test_sequences)]
    joints = {}
    write_json(out / "info.json", {"frames_per_second": FRAMES_PER_SECOND})
    with Progress("drawing", sum(sequence[1] for sequence in sequences), "frame") as progress:
        for folders, *rest in sequences:
            clip, hair = write_sequence([out / folder for folder in folders], *rest, scene, progress)
            joints.setdefault(folders[0], []).append((rest[2], clip))
            if args.ribbon and folders[0] == "val/val_img":  # for modules/score/ribbon.py
                (out / "ribbon.json").write_text(json.dumps(hair.round(5).tolist()), encoding="utf-8")
    if args.keypoints:
        write_keypoints(out, joints, scene)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.error = lambda message: parser.exit(2, f"error: {message}\n")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for train, val and test; new or empty")
    for name, (kind, default, least, most, text) in OPTIONS.items():
        parser.add_argument(f"--{name}", type=number(kind, least, most), default=default, metavar="N", help=text)
    parser.add_argument("--offset", type=number(float, -1.5, 1.5), nargs=2, default=[0.0, 0.0], metavar=("X", "Z"),
                        help="place of the dancer, m to the right and away from the camera")
    parser.add_argument("--ribbon", action="store_true", help="a ribbon in the hair, which no pose shows")
    parser.add_argument("--keypoints", action="store_true", help="also write the joints: OUT/openpose, a JSON file per "
                        "frame in OpenPose's format, and OUT/keypoints.json for drive.py")
    args = parser.parse_args()
    if args.height % 8 or args.width % 8:
        raise InputError(f"--height {args.height} --width {args.width}: expected multiples of 8")
    if not 2 <= args.train_frames / args.train_clips < CLIP_OFFSET - 100:
        raise InputError(f"--train_frames {args.train_frames} in {args.train_clips} clips: expected 2 to "
                         f"{CLIP_OFFSET - 101} frames per clip")
    with new_dataset(args.out, "make_dataset", vars(args)) as new:
        write_dataset(new, args)


if __name__ == "__main__":
    run_program(main)
