"""`scripts/drive.py`: another person's keypoints on this dancer, in the right place, size and colours."""

import json
import shutil

import numpy as np
import pytest
from conftest import check_error, run_inside
from dancer import make_motion, make_skeleton
from make_dataset import Scene, find_joints
from PIL import Image

from dataloader import Dataset_Dance
from modules.pose.retarget import find_standing, fit_to

FEW = ["--height", 16, "--width", 32, "--train_frames", 40, "--train_clips", 1, "--val_frames", 2, "--test_sequences",
       1, "--test_frames", 12, "--broken_poses", 0, "--keypoints"]


def dance(scene, seed, frames):
    """The joints (T, J, 3) of one motion before any camera, as a detector finds them."""
    motion, detector = (np.random.default_rng([seed, stream]) for stream in range(2))
    pixels, seen = find_joints(make_skeleton(make_motion(motion, frames, 2.0)), detector, scene)
    return np.concatenate([pixels, np.ones_like(pixels[..., :1])], -1) * seen[..., None]


def error(joints, truth):
    """Root mean square distance of the joints that both show, pixels."""
    both = (joints[..., 2] > 0) & (truth[..., 2] > 0)
    return np.sqrt(np.square(joints - truth)[both][:, :2].sum(-1).mean())


@pytest.mark.parametrize("other", [Scene(32, 64, 1.15, (0.3, 0.8)), Scene(64, 128, 0.85)])
def test_the_fitted_dance_lies_on_the_other_dancers(other):
    """A dances as B did: fitted, the joints are within a pixel of B's, also with a detector's errors."""
    a, b = dance(Scene(32, 64), 3, 900), dance(other, 3, 900)
    fitted = fit_to(a, find_standing(a, 0.3, "A"), find_standing(b, 0.3, "B"))
    assert error(fitted, b) < 1.0 * other.height / 32 < error(a, b) / 3
    wrong = a.copy()
    wrong[::50, :, :2] = 500
    assert error(fit_to(a, find_standing(wrong, 0.3, "A"), find_standing(b, 0.3, "B")), b) < 2 * other.height / 32
    assert (fitted[..., 2] == a[..., 2]).all()


@pytest.fixture(scope="module")
def dancers(tmp_path_factory):
    """A and B, the same motion."""
    folder = tmp_path_factory.mktemp("dancers")
    for name, more in (("A", []), ("B", ["--height_factor", 0.85, "--offset", 0.5, 0.4])):
        result = run_inside("make_dataset.py", folder / name, *FEW, *more)
        assert result.returncode == 0, result.stderr
    return folder


def drive(dancers, out, *flags):
    return run_inside("drive.py", "--DR", dancers / "B", "--keypoints", dancers / "A/openpose/test/0",
                      dancers / "A/openpose/train", "--out", out, *flags)


def test_driven_sequences(dancers, tmp_path):
    train = Dataset_Dance(dancers / "B", "train", 16, 32)
    distances = []  # of the driven poses from those that B had in the same dance
    for flags in (["--fit_with", dancers / "A/openpose/train"], [], ["--no_fit"]):
        out = tmp_path / str(len(distances))
        result = drive(dancers, out, *flags)
        assert result.returncode == 0, result.stderr
        sequences = Dataset_Dance(out, "test", 16, 32).sequences
        assert [len(sequence.poses) for sequence in sequences] == [12, 40]
        assert (sequences[0].frames[0] == train.frames[0]).all() and (sequences[0].poses[0] == train.poses[0]).all()
        distances.append((sequences[1].poses[1:].float() - train.poses[1:].float()).square().mean())
    assert distances[0] < distances[1] < 0.5 * distances[2]


def test_what_it_cannot_use_is_one_line(dancers, tmp_path):
    headless = shutil.copytree(dancers / "A/openpose/test/0", tmp_path / "headless")
    shutil.copytree(dancers / "B/train", tmp_path / "course/train")
    for file in headless.iterdir():
        person = np.reshape(json.loads(file.read_text())["people"][0]["pose_keypoints_2d"], (25, 3))
        person[[0, 15, 16, 17, 18]] = 0
        file.write_text(json.dumps({"people": [{"pose_keypoints_2d": person.ravel().tolist()}]}))
    new, before = tmp_path / "new", sorted(tmp_path.iterdir())
    for flags, *words in ((["--out", dancers / "A"], "not empty"), (["--keypoints", tmp_path / "nothing"], "not found"),
                          (["--keypoints", headless], "0 frames show both ankles", "--no_fit"),
                          (["--DR", tmp_path / "course"], "keypoints.json")):
        check_error(drive(dancers, new, *flags), *words)
        assert sorted(tmp_path.iterdir()) == before
    assert drive(dancers, new, "--keypoints", headless, "--no_fit").returncode == 0


@pytest.mark.parametrize("change, code, words", [
    ({"x": 1000}, 2, "100% of the joints lie outside the 32x16 frames"),
    ({"x": 12}, 0, "of the person's joints lie outside the frames"),
    ({"score": 0.1}, 0, "of the person's joints are below --min_confidence 0.3"),
    ({"rate": 10}, 0, "the dance plays 3.00 times as fast")])
def test_drive_says_what_import_says(dancers, tmp_path, change, code, words):
    contents = json.loads((dancers / "A/keypoints.json").read_text())
    contents["info"]["frames_per_second"] = change.get("rate", 30)
    for item in contents["annotations"]:
        person = np.reshape(item["keypoints"], (-1, 3))
        person[:, 0] += change.get("x", 0)
        person[::2, 2] *= change.get("score", 1)
        item["keypoints"] = person.ravel().tolist()
    (tmp_path / "k.json").write_text(json.dumps(contents))
    result = drive(dancers, tmp_path / "new", "--keypoints", tmp_path / "k.json", "--no_fit")
    assert result.returncode == code and words in result.stderr


def test_the_dancers_pose_images_are_drawn_again_from_their_joints(dancers, tmp_path):
    """keypoints.json and its widths of lines give the images that the dancer was trained with, so both look alike."""
    flags = ["--DR", dancers / "B", "--out", tmp_path / "self", "--keypoints", dancers / "B/keypoints.json"]
    assert run_inside("drive.py", *flags, "--no_fit").returncode == 0
    for t in range(1, 40):
        drawn, before = (np.asarray(Image.open(folder / f"frame{t:06d}.png"), dtype=float) for folder in (
            tmp_path / "self/test/test_label/0", dancers / "B/train/train_label"))
        assert np.abs(drawn - before).max() < 100 and np.abs(drawn - before).mean() < 0.2  # joints have three decimals
