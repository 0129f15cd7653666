"""Draw the project's own data set: a dancer in a studio, one pose picture per frame, in the layout of the course.

Units: metres, seconds, radians in the scene, pixels in the pictures. x points right, y up, z away from the camera; yaw
0 faces the camera, yaw pi/2 the right edge. Solids are convex hulls of spheres. Poses have the joints and colours of
OpenPose's BODY_25 (Cao et al. 2019). Arrays: T frames, H x W pixels, n spheres of a solid, J = 21 joints.
"""

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
from dancer import make_motion, make_skeleton, make_solids
from PIL import Image, ImageDraw
from tqdm import tqdm

SUPERSAMPLE = 4
CAMERA_HEIGHT, CAMERA_DISTANCE, FOCAL, HORIZON = 1.1, 6.0, 2.4, 0.47  # m, m, picture heights, share of the height
WALL = 2.2  # m behind the middle of the stage
CLIP_OFFSET = 10000  # training clips start at multiples of it: a jump in the frame numbers is a cut
ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
DIRECTIONS = np.stack([np.cos(ANGLES), np.sin(ANGLES)])  # (2, 24)
MARKER = "made_by_make_dataset.json"
SPLITS = ("train", "val", "test")
OURS = r"(train|val)/\1_(img|label)(/frame\d{6}\.png)?|test/test_(img|label|gt)(/\d+(/frame\d{6}\.png)?)?"

COUNTS = {  # options: (default, least, help)
    "seed": (0, 0, "what all motion is drawn from"), "height": (32, 16, "picture height in pixels, a multiple of 8"),
    "width": (64, 16, "picture width in pixels, a multiple of 8"),
    "train_frames": (1200, 2, "training frames, all clips together"), "train_clips": (3, 1, "training clips"),
    "val_frames": (630, 2, "validation frames"), "test_sequences": (2, 1, "test sequences"),
    "test_frames": (630, 2, "frames of each test sequence")}

SHADES = ((1.0, 0.74), (0.8, 0.95), (0.45, 1.12))  # (share of the radius, brightness), from the rim to the light
LIGHT = (-0.35, -0.5)  # where the light comes from, in the picture

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
LOSSES = [".*", "right_(hip|knee|ankle|toe)", "left_(hip|knee|ankle|toe)", "(right|left)_(elbow|wrist)"]


def project(points, height, width):
    """Points (..., 3) in m to pixels (..., 2), and the pixels per metre there (...)."""
    scale = FOCAL * height / (points[..., 2] + CAMERA_DISTANCE)
    across, down = width / 2 + points[..., 0] * scale, HORIZON * height + (CAMERA_HEIGHT - points[..., 1]) * scale
    return np.stack([across, down], -1), scale


def hull(centres, radii):
    """Convex hulls of circles, centres (T, n, 2), radii (T, n), as outlines [T][48]: the farthest in each direction."""
    farthest = np.argmax(centres @ DIRECTIONS + radii[..., None], axis=1)[..., None]  # (T, 24, 1)
    centre, radius = (np.take_along_axis(v, farthest, 1) for v in (centres, radii[..., None]))
    return (centre + radius * DIRECTIONS.T).reshape(len(centres), -1).tolist()


def dancer_polygons(skeleton, height, width):
    """The dancer, shaded; farther limbs are darker."""
    depths, solid_polygons = [], []
    for colour, bias, spheres in make_solids(skeleton):
        points = np.stack([centre for centre, _ in spheres], 1)  # (T, n, 3)
        centres, scale = project(points, height, width)
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


def pose_polygons(pixels, seen, height):
    """Coloured limbs and dark dots of the joints that are seen; pixels (T, J, 2), seen bool (T, J)."""
    frames = [[] for _ in pixels]
    for limb in LIMBS + [(name, name) for name in NAMES]:
        ends, dot, head = [NAMES.index(name) for name in limb], limb[0] == limb[1], re.search("nose|eye|ear", limb[1])
        thickness = height * (0.011 if head else 0.014 if dot else 0.018)
        outlines = hull(pixels[:, ends], np.full((len(pixels), 2), thickness))
        colour = tuple(int(value * (0.7 if dot else 1)) for value in JOINTS[limb[1]])
        for t in np.flatnonzero(seen[:, ends].all(1)):
            frames[t].append((outlines[t], colour))
    return frames


def paint(polygons, background):
    """One frame's polygons, given in supersampled pixels, smoothly over a background picture."""
    layer = Image.new("RGBA", (background.width * SUPERSAMPLE, background.height * SUPERSAMPLE))
    draw = ImageDraw.Draw(layer)
    for outline, colour in polygons:
        draw.polygon(outline, fill=colour)
    layer = layer.reduce(SUPERSAMPLE)
    background.paste(layer, mask=layer.getchannel("A"))
    return background


def draw_studio(height, width):
    """The empty studio (H, W, 3) in 0..1: lamps over a grey wall, a floor line, darker sides."""
    down, across = (np.arange(height) + 0.5)[:, None] / height, (np.arange(width) + 0.5 - width / 2) / height
    below = down - HORIZON - CAMERA_HEIGHT * FOCAL / (CAMERA_DISTANCE + WALL)  # the floor line
    light = 0.58 + 0.1 * down + 0.05 * np.tanh(below / 0.015) - 0.13 * np.exp(-(below / 0.018) ** 2)
    light = light + 0.14 * np.exp(-((across + 0.2) / 0.7) ** 2 - ((down - 0.6) / 0.35) ** 2)
    light -= 0.1 * (across * height / width * 2) ** 2
    for lamp in np.arange(-np.ceil(width / height), np.ceil(width / height) + 1) * 0.8 + 0.13:
        light += 0.3 * np.exp(-((across - lamp) / 0.22) ** 2 - ((down + 0.04) / 0.2) ** 2)
    return np.clip(light[..., None] * (1.0, 0.985, 0.955), 0, 1)


def draw_shadows(skeleton, height, width):
    """The light (T, H, W) that feet and body leave on the floor; 1 without shadow."""
    light = 1.0
    for name, size, depth in (("right_ankle", 0.13, 0.42), ("left_ankle", 0.13, 0.42), ("middle_hip", 0.32, 0.3)):
        centre, scale = project(skeleton[name] * (1, 0, 1), height, width)
        across = np.exp(-((np.arange(width) + 0.5 - centre[:, :1]) / (size * scale[:, None])) ** 2)
        down = np.exp(-((np.arange(height) + 0.5 - centre[:, 1:]) / (0.3 * size * scale[:, None])) ** 2)
        strength = depth * np.exp(-np.maximum(skeleton[name][:, 1] - 0.1, 0) / 0.8)  # fainter under a lifted foot
        light = light * (1 - strength[:, None, None] * down[:, :, None] * across[:, None, :])
    return light


def find_joints(skeleton, generator, height, width):
    """What a pose detector would find: pixels (T, J, 2), a little off, and which joints it sees, bool (T, J)."""
    pixels = project(np.stack([skeleton[name] for name in NAMES], 1), height, width)[0]
    pixels += generator.normal(0, 0.003 * height, pixels.shape)
    seen = np.all((pixels > 0) & (pixels < (width, height)), axis=-1)
    for name, ahead, aside, least in (("nose", 1, 0, -0.4), ("right_eye", 0.9, 0.4, 0), ("left_eye", 0.9, -0.4, 0),
                                      ("right_ear", 0, 1, -0.35), ("left_ear", 0, -1, -0.35)):
        seen[:, NAMES.index(name)] &= -(ahead * skeleton["face"] + aside * skeleton["cheek"])[:, 2] > least
    return pixels, seen


def break_poses(seen, generator, share):
    """Lose a leg, the forearms or all joints of `seen` in short runs of frames, never in the first frame."""
    left, loss = np.arange(1, len(seen)), LOSSES[0]
    wanted = min(max(1, round(share * len(seen))), len(left)) if share > 0 else 0
    while wanted:
        run = left[left >= generator.choice(left)][:min(generator.integers(1, 5), wanted)]
        seen[np.ix_(run, [bool(re.fullmatch(loss, name)) for name in NAMES])] = False
        left, wanted, loss = np.setdiff1d(left, run), wanted - len(run), generator.choice(LOSSES)


def write_sequence(folders, frames, seed, first_number, broken_share, size, progress):
    """Draw a sequence from its own seeds into the folders of frames and of poses."""
    motion_random, joint_random, break_random = (np.random.default_rng([*seed, stream]) for stream in range(3))
    reach = max(size[1] / size[0] * CAMERA_DISTANCE / FOCAL / 2 - 0.4, 0.1)  # m, where the picture ends
    large, studio = [SUPERSAMPLE * side for side in size], draw_studio(*size)
    everything = make_skeleton(make_motion(motion_random, frames, reach))
    pixels, seen = find_joints(everything, joint_random, *large)
    break_poses(seen, break_random, broken_share)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, frames, 64):  # bounds the memory
        some = slice(start, start + 64)
        skeleton = {name: v[some] for name, v in everything.items()}
        drawn = zip(draw_shadows(skeleton, *size), dancer_polygons(skeleton, *large),
                    pose_polygons(pixels[some], seen[some], large[0]), strict=True)
        for number, (light, dancer, pose) in enumerate(drawn, first_number + start):
            frame = Image.fromarray(np.rint(255 * studio * light[..., None]).astype(np.uint8))
            paint(dancer, frame).save(folders[0] / f"frame{number:06d}.png")
            paint(pose, Image.new("RGB", size[::-1], "white")).save(folders[1] / f"frame{number:06d}.png")
            progress.update()


def write_dataset(out, args):
    """Write train, val and test below a new folder. Each sequence has its own seed: (seed, split, index)."""
    sequences = [(("train/train_img", "train/train_label"), args.train_frames // args.train_clips + (
        clip < args.train_frames % args.train_clips), (args.seed, 0, clip), clip * CLIP_OFFSET, args.broken_poses)
        for clip in range(args.train_clips)]
    sequences += [(("val/val_img", "val/val_label"), args.val_frames, (args.seed, 1, 0), 0, 0)]
    sequences += [((f"test/test_gt/{index}", f"test/test_label/{index}"), args.test_frames, (args.seed, 2, index), 0,
                   args.broken_poses if index == 0 else 0) for index in range(args.test_sequences)]
    with tqdm(total=sum(sequence[1] for sequence in sequences), unit="frame", desc="drawing") as progress:
        for folders, *rest in sequences:
            write_sequence([out / folder for folder in folders], *rest, (args.height, args.width), progress)
    for truth in (out / "test/test_gt").glob("*/frame000000.png"):
        given = out / "test/test_img" / truth.parent.name
        given.mkdir(parents=True)
        (given / truth.name).write_bytes(truth.read_bytes())
    text = json.dumps({name: v for name, v in vars(args).items() if name != "out"}, indent=1) + "\n"
    (out / MARKER).write_text(text, encoding="utf-8")


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
    if args.out.exists() and any(args.out.iterdir()):  # a file is no folder: OSError
        if not args.overwrite:
            raise ValueError(f"{args.out} is not empty (--overwrite replaces a set that this script made)")
        inside = [path for split in SPLITS for path in (args.out / split).rglob("*")]
        if not (args.out / MARKER).is_file() or not all(
                re.fullmatch(OURS, path.relative_to(args.out).as_posix()) and not path.is_symlink() for path in inside):
            raise ValueError(f"{args.out} holds files that this script did not write: choose another folder")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: error: {message}\n")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for train, val and test; new or empty")
    for name, (default, _, text) in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=text)
    parser.add_argument("--broken_poses", type=float, default=0.01, metavar="SHARE",
                        help="share of poses that are blank or miss limbs, in training and in test sequence 0")
    parser.add_argument("--overwrite", action="store_true", help="replace a set that this script wrote into OUT before")
    args = parser.parse_args()
    try:
        check(args)
        out = args.out.resolve()
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".make_dataset_", dir=out.parent) as temporary:
            write_dataset(Path(temporary, "new"), args)
            out.mkdir(exist_ok=True)
            for split in SPLITS:
                if (out / split).exists():
                    (out / split).rename(Path(temporary, split))  # deleted with the temporary folder
            for path in Path(temporary, "new").iterdir():
                path.replace(out / path.name)
    except (OSError, ValueError) as problem:
        parser.error(str(problem))
    except KeyboardInterrupt:
        sys.exit("interrupted, nothing written")


if __name__ == "__main__":
    main()
