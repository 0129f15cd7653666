"""`scripts/drive.py`: another person's keypoints on this dancer, in the right place, size and colours."""

import json
import shutil
import sys

import numpy as np
import pytest
from conftest import ROOT, check_error, run_inside
from PIL import Image

sys.path.insert(0, str(ROOT / "scripts"))

from dancer import make_motion, make_skeleton
from make_dataset import Scene, find_joints

from dataloader import Dataset_Dance
from modules.pose.retarget import find_standing, fit_to
from modules.pose.skeleton import NAMES

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


@pytest.mark.parametrize("other", [
    Scene(32, 64, 0.85, (0.5, 0.4)), Scene(32, 64, 1.15, (0.3, 0.8)), Scene(64, 128, 0.85)])
def test_the_fitted_dance_lies_on_the_other_dancers(other):
    """A dances as B did: fitted, the joints are within a pixel or so of B's, otherwise far off. A detector's errors
    hardly move the dancer."""
    a, b = dance(Scene(32, 64), 3, 900), dance(other, 3, 900)
    fitted = fit_to(a, find_standing(a, 0.3, "A"), find_standing(b, 0.3, "B"))
    assert error(fitted, b) < 1.0 * other.height / 32 < error(a, b) / 3
    wrong = a.copy()
    wrong[::50, :, :2] = 500
    assert error(fit_to(a, find_standing(wrong, 0.3, "A"), find_standing(b, 0.3, "B")), b) < 2 * other.height / 32
    wrists = [NAMES.index(f"{side}_wrist") for side in ("right", "left")]
    assert (np.sign(np.diff(a[:, wrists, 0])) == np.sign(np.diff(fitted[:, wrists, 0]))).all(), "left stays left"
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
    result = drive(dancers, tmp_path / "driven")
    assert result.returncode == 0, result.stderr
    sequences = Dataset_Dance(tmp_path / "driven", "test", 16, 32).sequences
    assert [len(sequence.poses) for sequence in sequences] == [12, 40]
    train = Dataset_Dance(dancers / "B", "train", 16, 32)
    assert (sequences[0].frames[0] == train.frames[0]).all() and (sequences[0].poses[0] == train.poses[0]).all()

    def distance(folder):  # of the driven poses from those that B had in the same dance
        truth = Dataset_Dance(dancers / "B", "train", 16, 32).poses[1:].float()
        return (Dataset_Dance(folder, "test", 16, 32).sequences[1].poses[1:].float() - truth).square().mean()

    longer = drive(dancers, tmp_path / "longer", "--fit_with", dancers / "A/openpose/train")
    assert longer.returncode == 0 and longer.stdout.splitlines()[0] != result.stdout.splitlines()[0]
    assert distance(tmp_path / "longer") < distance(tmp_path / "driven")
    assert drive(dancers, tmp_path / "as_it_is", "--no_fit").returncode == 0
    assert distance(tmp_path / "driven") < 0.5 * distance(tmp_path / "as_it_is")


def test_what_it_cannot_use_is_one_line(dancers, tmp_path):
    check_error(drive(dancers, dancers / "A"), "not empty")
    flags = ["--out", tmp_path / "driven", "--keypoints"]
    check_error(run_inside("drive.py", "--DR", dancers / "B", *flags, tmp_path / "nothing"), "not found")
    (tmp_path / "headless").mkdir()
    for file in (dancers / "A/openpose/test/0").iterdir():
        person = np.reshape(json.loads(file.read_text())["people"][0]["pose_keypoints_2d"], (25, 3))
        person[[0, 15, 16, 17, 18]] = 0
        text = json.dumps({"people": [{"pose_keypoints_2d": person.ravel().tolist()}]})
        (tmp_path / "headless" / file.name).write_text(text)
    flags = ["--DR", dancers / "B", *flags, tmp_path / "headless"]
    check_error(run_inside("drive.py", *flags), "0 frames show both ankles", "--no_fit")
    assert [path.name for path in tmp_path.iterdir()] == ["headless"]
    result = run_inside("drive.py", *flags, "--no_fit")
    assert result.returncode == 0, result.stderr
    shutil.copytree(dancers / "B/train", tmp_path / "course/train")
    flags = ["--DR", tmp_path / "course", "--out", tmp_path / "new", *flags[4:]]
    check_error(run_inside("drive.py", *flags), "keypoints.json")


def test_the_dancers_pose_images_are_drawn_again_from_their_joints(dancers, tmp_path):
    """keypoints.json and its widths of lines give the images that the dancer was trained with, so both look alike."""
    flags = ["--DR", dancers / "B", "--out", tmp_path / "self", "--keypoints", dancers / "B/keypoints.json"]
    assert run_inside("drive.py", *flags, "--no_fit").returncode == 0
    for t in range(1, 40):
        drawn, before = (np.asarray(Image.open(folder / f"frame{t:06d}.png"), dtype=float) for folder in (
            tmp_path / "self/test/test_label/0", dancers / "B/train/train_label"))
        assert np.abs(drawn - before).max() < 100 and np.abs(drawn - before).mean() < 0.2  # joints have three decimals
