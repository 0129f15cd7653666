"""`scripts/make_dataset.py`, run as a user runs it: layout, determinism, agreement of pose and frame, bad input."""
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "make_dataset.py"
SMALL = {"train_frames": 101, "train_clips": 2, "val_frames": 90, "test_sequences": 2, "test_frames": 40,
         "broken_poses": 0.1}


def run(out, *extra, **flags):
    words = [str(word) for name, value in (SMALL | flags).items() for word in (f"--{name}", value)]
    return subprocess.run([sys.executable, SCRIPT, out, *words, *extra], capture_output=True, text=True)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def hashes(out, below=""):
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (out / below).rglob("*.png")}


def pictures(folder):  # (T, H, W, 3)
    return np.stack([np.asarray(Image.open(folder / name), dtype=float) for name in names(folder)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "data"
    result = run(out)
    assert result.returncode == 0, result.stderr
    return out


def test_layout_and_cuts(made):
    assert names(made) == ["made_by_make_dataset.json", "test", "train", "val"]
    assert names(made.parent) == ["data"]  # no temporary folder is left
    clips = [*range(51), *range(10000, 10050)]
    assert names(made / "train/train_img") == [f"frame{number:06d}.png" for number in clips]
    assert names(made / "train/train_label") == names(made / "train/train_img")
    assert names(made / "val/val_img") == [f"frame{number:06d}.png" for number in range(90)]
    assert names(made / "val/val_label") == names(made / "val/val_img")
    for index in "01":
        given, poses, truth = (made / "test" / f"test_{kind}" / index for kind in ("img", "label", "gt"))
        assert names(given) == ["frame000000.png"]
        assert names(poses) == names(truth) and len(names(poses)) == 40
        assert (given / "frame000000.png").read_bytes() == (truth / "frame000000.png").read_bytes()
    for path in made.rglob("*.png"):
        with Image.open(path) as picture:
            assert (picture.size, picture.mode) == ((64, 32), "RGB")


def test_the_seed_and_the_flags_decide_every_byte(made, tmp_path):
    assert run(tmp_path / "again").returncode == 0
    assert hashes(tmp_path / "again") == hashes(made)
    assert run(tmp_path / "other", seed=1, train_frames=20, val_frames=20, test_frames=20).returncode == 0
    other = hashes(tmp_path / "other")
    same = [name for name, value in hashes(made).items() if other.get(name) == value]
    assert len(other) == 20 * 8 + 2 and not [name for name in same if "_label" not in name]


def test_a_sequence_does_not_depend_on_the_lengths_of_others(made, tmp_path):
    assert run(tmp_path / "data", train_frames=20, val_frames=30, test_sequences=1).returncode == 0
    whole = hashes(made)
    for below in ("test", "val"):  # the shorter validation sequence is the start of the longer
        part = hashes(tmp_path / "data", below)
        assert part and part.items() <= whole.items()


def test_sequences_differ(made):
    firsts = [made / "train/train_img/frame000000.png", made / "train/train_img/frame010000.png",
              made / "val/val_img/frame000000.png", *made.glob("test/test_gt/*/frame000000.png")]
    assert len({path.read_bytes() for path in firsts}) == len(firsts) == 5


def test_the_dancer_moves_smoothly_before_a_still_studio(made):
    frames = pictures(made / "val/val_img")
    near = np.abs(frames[1:] - frames[:-1]).mean((1, 2, 3))
    far = np.abs(frames[45:] - frames[:-45]).mean((1, 2, 3))
    assert (near > 0).mean() > 0.95
    assert far.mean() > 2 * near.mean()
    assert frames[:, 2:10, [1, -2]].std(0).max() < 2


def test_pose_and_frame_agree(made):
    """The middle of the drawn joints is the middle of what differs from the empty studio."""
    frames, poses = pictures(made / "val/val_img"), pictures(made / "val/val_label")
    studio = np.median(np.concatenate([pictures(made / "train/train_img"), frames,
                                       *(pictures(path) for path in made.glob("test/test_gt/*"))]), axis=0)

    def centres(masks):  # (T, H, W) -> (T, 2)
        return np.array([np.argwhere(mask).mean(0) for mask in masks])

    drawn, seen = centres(poses.min(-1) < 230), centres(np.abs(frames - studio).max(-1) > 40)
    assert np.linalg.norm(drawn - seen, axis=1).max() < 3


def test_right_and_left_have_their_own_colours(made):
    poses = pictures(made / "val/val_label").reshape(-1, 3)
    blue = (poses[:, 2] > 180) & (poses[:, 0] < 80) & (poses[:, 1] < 120)  # left leg
    cyan = (poses[:, 2] > 120) & (poses[:, 0] < 80) & (poses[:, 1] > 200)  # right leg
    assert blue.sum() > 200 and cyan.sum() > 200


def test_the_share_of_poses_is_broken(made, tmp_path):
    """Against the set without broken poses a tenth of the poses of training and of test sequence 0 differ."""
    assert run(tmp_path / "whole", broken_poses=0).returncode == 0
    whole, broken = hashes(tmp_path / "whole"), hashes(made)
    changed = [name for name in whole if whole[name] != broken[name]]
    assert all(name.startswith(("train/train_label/", "test/test_label/0/")) for name in changed)
    assert 7 <= sum(name.startswith("train") for name in changed) <= 10  # of 5 + 5; a lost limb may be unseen
    assert 2 <= sum(name.startswith("test") for name in changed) <= 4
    assert "train/train_label/frame000000.png" not in changed
    ink = [(np.asarray(Image.open(made / name)) < 250).sum() for name in changed]
    assert min(ink) == 0 < max(ink)  # blank ones, and ones that miss limbs


@pytest.mark.parametrize("height, width", [(64, 128), (48, 24), (16, 16)])
def test_sizes(tmp_path, height, width):
    few = dict(train_frames=4, val_frames=2, test_frames=2)
    result = run(tmp_path / "data", height=height, width=width, **few)
    assert result.returncode == 0, result.stderr
    for path in (tmp_path / "data").rglob("*.png"):
        assert Image.open(path).size == (width, height)


@pytest.mark.parametrize("flags, text", [
    (dict(height=30), "--height 30 is not a multiple of 8"), (dict(width=8), "--width 8 is less than 16"),
    (dict(val_frames=1), "--val_frames"), (dict(test_frames="many"), "--test_frames"), (dict(seed=-1), "--seed"),
    (dict(test_frames=10 ** 7), "six digits"), (dict(train_clips=0), "--train_clips"),
    (dict(train_frames=3), "training frames"), (dict(broken_poses="nan"), "--broken_poses")])
def test_bad_flags_give_one_line(tmp_path, flags, text):
    result = run(tmp_path / "data", **flags)
    assert result.returncode == 2 and text in result.stderr
    assert result.stderr.startswith("make_dataset.py: error: ") and result.stderr.count("\n") == 1
    assert names(tmp_path) == []


def test_overwrite_spares_what_the_script_did_not_write(tmp_path):
    out, few = tmp_path / "data", dict(train_frames=4, val_frames=2, test_frames=2)
    assert run(out, **few).returncode == 0
    (out / "notes.txt").write_text("mine")
    refused = run(out, **few)
    assert refused.returncode == 2 and "--overwrite" in refused.stderr and refused.stderr.count("\n") == 1
    assert run(out, "--overwrite", **few | {"val_frames": 3}).returncode == 0
    assert len(names(out / "val/val_img")) == 3 and (out / "notes.txt").read_text() == "mine"

    (out / "train/train_img/mine.png").write_text("mine")
    before = hashes(out)
    assert run(out, "--overwrite", **few).returncode == 2 and hashes(out) == before
    (out / "train/train_img/mine.png").unlink()
    (out / "made_by_make_dataset.json").unlink()  # the same layout from elsewhere, such as the course's data
    before = hashes(out)
    assert run(out, "--overwrite", **few).returncode == 2 and hashes(out) == before


def test_out_that_cannot_be_a_folder_gives_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        result = run(out, train_frames=4, val_frames=2, test_frames=2)
        assert result.returncode == 2 and result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_other_dancers_dance_the_same(made, tmp_path):
    """Another height, legs, place, clothes and camera change the pictures; joints and pictures still agree."""
    few = dict(train_frames=20, train_clips=1, val_frames=2, test_sequences=1, test_frames=2, broken_poses=0)
    flags = ["--height_factor", "0.85", "--leg_factor", "1.1", "--offset", "0.5", "0.4", "--colors", "3",
             "--camera_height", "1.3", "--camera_distance", "6.5", "--keypoints"]
    assert run(tmp_path / "A", **few).returncode == 0
    result = run(tmp_path / "B", *flags, **few)
    assert result.returncode == 0, result.stderr
    (a, b), (pose_a, pose_b) = ([pictures(tmp_path / name / f"train/train_{kind}") for name in "AB"]
                                for kind in ("img", "label"))
    assert (np.abs(a - b).mean((1, 2, 3)) > 2).all()
    tall = [np.argwhere(pose.min(-1) < 200)[:, 0] for pose in (pose_a[0], pose_b[0])]
    assert np.ptp(tall[1]) < np.ptp(tall[0])
    people = json.loads((tmp_path / "B/keypoints.json").read_text())
    assert len(people["images"]) == len(people["annotations"]) == 20
    assert names(tmp_path / "B/openpose") == ["test", "train", "val"]
    openpose = json.loads((tmp_path / "B/openpose/train/frame000000_keypoints.json").read_text())["people"][0]
    joints = np.reshape(openpose["pose_keypoints_2d"], (25, 3))
    found = joints[joints[:, 2] > 0]
    ink = np.argwhere(pose_b[0].min(-1) < 250)[:, ::-1]
    assert np.abs(ink[:, None] + 0.5 - found[:, :2]).max(-1).min(0).max() < 1.5, "on the skeleton"


@pytest.mark.parametrize("flags", [["--height_factor", "3"], ["--offset", "9", "0"], ["--colors", "-1"],
                                   ["--camera_height", "nan"]])
def test_dancers_that_cannot_be_are_one_line(tmp_path, flags):
    result = run(tmp_path / "data", *flags)
    assert result.returncode == 2 and flags[0] in result.stderr and result.stderr.count("\n") == 1


def test_broken_poses_go_on_for_as_long_as_is_asked(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    from make_dataset import break_poses

    for longest in (1, 30):
        seen = np.ones((400, 21), bool)
        break_poses(seen, np.random.default_rng(0), 0.2, longest)
        broken = np.flatnonzero(~seen.all(axis=1))
        runs = [len(run) for run in np.split(broken, np.flatnonzero(np.diff(broken) > 1) + 1)]
        assert len(broken) == 80 and seen[0].all()
        assert max(runs) >= 15 if longest == 30 else np.mean(runs) < 2  # neighbours may touch
