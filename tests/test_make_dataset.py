"""`scripts/make_dataset.py`: layout, determinism, agreement of pose and frame, bad input."""

import hashlib
import json

import numpy as np
import pytest
from conftest import check_error, run_inside
from make_dataset import break_poses
from PIL import Image

SMALL = {"train_frames": 71, "train_clips": 2, "val_frames": 60, "test_sequences": 2, "test_frames": 30,
         "broken_poses": 0.1}
FEW = dict(train_frames=4, val_frames=2, test_frames=2)


def make(out, *extra, **flags):
    words = [word for name, value in (SMALL | flags).items() for word in (f"--{name}", value)]
    return run_inside("make_dataset.py", out, *words, *extra)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def hashes(out, below=""):
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (out / below).rglob("*.png")}


def images(folder):  # (T, H, W, 3)
    return np.stack([np.asarray(Image.open(folder / name), dtype=float) for name in names(folder)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "data"
    result = make(out)
    assert result.returncode == 0, result.stderr
    return out


def test_layout_and_cuts(made):
    assert names(made) == ["info.json", "made_by_make_dataset.json", "test", "train", "val"]
    assert names(made.parent) == ["data"], "no temporary folder is left"
    clips = [f"frame{number:06d}.png" for number in (*range(36), *range(10000, 10035))]
    assert names(made / "train/train_img") == names(made / "train/train_label") == clips
    assert names(made / "val/val_img") == names(made / "val/val_label") and len(names(made / "val/val_img")) == 60
    for index in "01":
        given, poses, truth = (made / "test" / f"test_{kind}" / index for kind in ("img", "label", "gt"))
        assert names(given) == ["frame000000.png"]
        assert names(poses) == names(truth) and len(names(poses)) == 30
        assert (given / "frame000000.png").read_bytes() == (truth / "frame000000.png").read_bytes()
    for path in made.rglob("*.png"):
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((64, 32), "RGB")


def test_the_seed_decides_every_byte_and_sequences_do_not_depend_on_each_other(made, tmp_path):
    assert make(tmp_path / "again", train_frames=30, test_sequences=1, val_frames=20).returncode == 0
    whole, again = hashes(made), hashes(tmp_path / "again")
    same = {name for name in again if not name.startswith("train/train_label")}  # how many are broken is a share
    assert {name: again[name] for name in same}.items() <= whole.items()
    assert make(tmp_path / "other", seed=1, **FEW).returncode == 0
    assert not [name for name, value in hashes(tmp_path / "other").items() if value in whole.values()
                and "_label" not in name]
    firsts = [made / "train/train_img/frame000000.png", made / "train/train_img/frame010000.png",
              made / "val/val_img/frame000000.png", *made.glob("test/test_gt/*/frame000000.png")]
    assert len({path.read_bytes() for path in firsts}) == len(firsts) == 5


def test_the_dancer_moves_smoothly_in_a_still_studio_and_poses_agree(made):
    frames, poses = images(made / "val/val_img"), images(made / "val/val_label")
    near = np.abs(frames[1:] - frames[:-1]).mean((1, 2, 3))
    far = np.abs(frames[45:] - frames[:-45]).mean((1, 2, 3))
    assert (near > 0).mean() > 0.95 and far.mean() > 2 * near.mean()
    assert frames[:, 2:10, [1, -2]].std(0).max() < 2
    studio = np.median(np.concatenate([images(made / "train/train_img"), frames]), axis=0)
    drawn, seen = (np.array([np.argwhere(mask).mean(0) for mask in masks])
                   for masks in (poses.min(-1) < 230, np.abs(frames - studio).max(-1) > 40))
    assert np.linalg.norm(drawn - seen, axis=1).max() < 3, "middle of the joints, middle of the dancer"
    red, green, blue = poses.reshape(-1, 3).T
    assert ((blue > 180) & (red < 80) & (green < 120)).sum() > 100, "the left leg is blue"
    assert ((blue > 120) & (red < 80) & (green > 200)).sum() > 100, "the right leg is cyan"


def test_a_share_of_the_poses_is_broken_in_runs(made, tmp_path):
    assert make(tmp_path / "whole", broken_poses=0).returncode == 0
    whole, broken = hashes(tmp_path / "whole"), hashes(made)
    changed = [name for name in whole if whole[name] != broken[name]]
    assert all(name.startswith(("train/train_label/", "test/test_label/0/")) for name in changed)
    assert 5 <= sum(name.startswith("train") for name in changed) <= 8  # of 4 + 4; a lost limb may be hidden
    assert 1 <= sum(name.startswith("test") for name in changed) <= 3
    ink = [(np.asarray(Image.open(made / name)) < 250).sum() for name in changed]
    assert min(ink) == 0 < max(ink), "blank poses, and poses without some limbs"
    seen = np.ones((400, 21), bool)
    break_poses(seen, np.random.default_rng(0), 0.2)
    places = np.flatnonzero(~seen.all(axis=1))
    assert len(places) == 80 and seen[0].all() and (np.diff(places) > 1).sum() < 80 / 1.5


def test_another_dancer_in_another_size_with_joints(tmp_path):
    few = dict(train_frames=20, train_clips=1, val_frames=2, test_sequences=1, test_frames=2, broken_poses=0,
               height=48, width=88)
    flags = ["--height_factor", "0.85", "--offset", "0.5", "0.4", "--keypoints"]
    for name, more in (("A", []), ("B", flags)):
        result = make(tmp_path / name, *more, **few)
        assert result.returncode == 0, result.stderr
    a, b = (images(tmp_path / name / "train/train_img") for name in "AB")
    assert a.shape[1:] == (48, 88, 3) and (np.abs(a - b).mean((1, 2, 3)) > 2).all()
    ink_a, ink = (np.argwhere(images(tmp_path / name / "train/train_label")[0].min(-1) < 200) for name in "AB")
    assert np.ptp(ink[:, 0]) < np.ptp(ink_a[:, 0])
    people = json.loads((tmp_path / "B/keypoints.json").read_text())
    assert len(people["images"]) == len(people["annotations"]) == 20
    assert names(tmp_path / "B/openpose") == ["test", "train", "val"]
    openpose = json.loads((tmp_path / "B/openpose/train/frame000000_keypoints.json").read_text())["people"][0]
    joints = np.reshape(openpose["pose_keypoints_2d"], (25, 3))
    found = joints[joints[:, 2] > 0]
    assert np.abs(ink[:, None, ::-1] + 0.5 - found[:, :2]).max(-1).min(0).max() < 1.5, "joints lie on the skeleton"


@pytest.mark.parametrize("flags, text", [
    ("--height 30", "multiples of 8"), ("--val_frames 1", "--val_frames"), ("--seed -1", "--seed"),
    ("--test_frames 10000000", "--test_frames"), ("--train_frames 3", "--train_frames 3 in 2 clips"),
    ("--broken_poses nan", "--broken_poses"), ("--height_factor 3", "--height_factor"), ("--offset 9 0", "--offset")])
def test_bad_flags_give_one_line(tmp_path, flags, text):
    check_error(make(tmp_path / "data", *flags.split()), text)
    assert names(tmp_path) == []
