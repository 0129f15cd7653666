"""The way from any video to the man from the lab: forms of keypoints, names of frames, palette, detector, rates."""

import json
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import check_error, run_inside, write_numbered
from find_keypoints import ENVIRONMENT
from PIL import Image

from dataloader import Dataset_Dance
from modules.data.layout import frames_per_second
from modules.data.pairing import frame_numbers
from modules.data.reading import read_image
from modules.pose.keypoints import read_keypoints
from modules.pose.retarget import find_standing, standing_in
from modules.pose.skeleton import NAMES, draw_poses
from modules.pose.video import Video
from modules.runtime import InputError
from modules.show.video import save_mp4

EDN = Path(__file__).parent.parent.parent / "shared/edn"
POINTS = [[10 * i, 5 * i] for i in range(1, 137)]


@pytest.mark.parametrize("names, numbers", [
    (["frame_0007_png.rf.a8bc3", "frame_0017_png.rf.3f8a", "frame_0027_png.rf.99x1"], [7, 17, 27]),
    (["frame_000012_0.400", "frame_000013_0.433"], [12, 13]), (["9", "10"], [9, 10]),
    (["cam2_000123"], [123]), (["cover", "f3"], [-1, 3]), (["a_000", "b_000"], [0, 0])])
def test_the_frame_number_in_a_name(names, numbers):
    assert frame_numbers(names)[0] == numbers


def test_images_of_another_aspect_are_told(tmp_path, capsys):
    write_numbered(tmp_path, "train", range(3), (30, 60))
    assert len(Dataset_Dance(tmp_path, "train", train_vi_len=2).frames) == 3
    assert "30x60 pixels are squeezed to 64x32" in capsys.readouterr().err


def flat(joints, score=0.9):
    return [value for point in POINTS[:joints] for value in (*point, score)]


FORMS = {  # file: contents, what they are taken for, the scores and numbers of the people of the first frame
    "alphapose_26.json": ([{"image_id": "0.jpg", "category_id": 1, "keypoints": flat(26), "score": 2.9, "idx": 4.0,
                            "box": [0, 0, 9, 9]}], "COCO results", [(1.0, "4")]),
    "alphapose_136.json": ([{"image_id": "0.jpg", "keypoints": flat(136), "score": 0.5, "idx": 0},
                            {"image_id": "0.jpg", "keypoints": flat(136), "score": 0.6, "idx": 0}],
                           "COCO results", [(0.5, "0"), (0.6, "0")]),
    "whole_body.json": ([{"image_id": 0, "keypoints": flat(133), "score": 0.7}], "COCO results", [(0.7, "")]),
    "mmpose.json": ({"meta_info": {}, "instance_info": [{"frame_id": 1, "instances": [
        {"keypoints": POINTS[:17], "keypoint_scores": [0.9] * 17, "bbox": [[0, 0, 9, 9]], "bbox_score": 0.8,
         "track_id": 3}]}]}, "MMPose", [(0.8, "3")]),
    "inferencer/7.json": ([{"keypoints": POINTS[:17], "keypoint_scores": [0.9] * 17, "bbox_score": 0.8}],
                          "a list of people a frame", [(0.8, "")]),
    "openpose/a_000000000000_keypoints.json": ({"people": [{"pose_keypoints_2d": flat(25)}]},
                                               "OpenPose's JSON", [(0.9, "")]),
    "yml/frame020001_pose.yml": ("%YAML:1.0\npose_0: !!opencv-nd-matrix\n   sizes: [ 1, 23, 3 ]\n   dt: f\n   data: [ "
                                 + ",\n   ".join(map(str, flat(23))) + " ]\n", "OpenPose's YAML", [(0.9, "")]),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_keypoints(tmp_path, capsys, name):
    contents, said, people = FORMS[name]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(contents if isinstance(contents, str) else json.dumps(contents))
    path = (tmp_path / name).parent if "/" in name else tmp_path / name
    (frame,) = read_keypoints(path).matched()
    assert said in capsys.readouterr().out
    assert [(round(person.score, 3), person.track) for person in frame] == people
    joints = frame[0].joints
    index = 18 if "yml" in name else 0  # of the nose
    assert joints[NAMES.index("nose")].tolist() == [*POINTS[index], 0.9]
    assert (joints[NAMES.index("left_small_toe"), 2] > 0) == ("/" in name and "inferencer" not in name)


@pytest.mark.parametrize("name, contents, words", [
    ("a.json", {"0.jpg": {"version": 1, "bodies": []}}, "bodies"), ("a.json", {"frames": []}, "frames"),
    ("a.json", [{"joints": []}], "joints"), ("f/0.txt", "0 .5 .5", "a folder of 1 files, 0.txt; expected OpenPose's"),
    ("a.npz", "", "a .npz file"), ("f/a_pose.yml", "%YAML:1.0", "an unknown form, %YAML"),
    ("f/a_keypoints.json", {"pose": 1}, "{'pose': 1} …; expected OpenPose's --write_json"),
    ("a.json", [{"image_id": 0, "keypoints": [1, 2, 1] * 15}], "15 joints")])
def test_an_unknown_form_is_named_by_what_was_found(tmp_path, name, contents, words):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(contents if isinstance(contents, str) else json.dumps(contents))
    with pytest.raises(InputError, match=re.escape(words)):
        read_keypoints((tmp_path / name).parent if "/" in name else tmp_path / name)


def write_openpose(folder, names):
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        text = json.dumps({"people": [{"pose_keypoints_2d": [i + 1, 5, 1] * 25}]})
        (folder / f"{name}_keypoints.json").write_text(text)
    return folder


@pytest.mark.parametrize("files, names, expected, said", [
    (None, ["v_00", "v_01", "v_03"], [1, 2, 0, 3], "1 frames have no keypoints: nobody is there: 2"),
    (["x5.png", "x6.png", "x7.png", "x8.png"], ["x8", "x5", "x6"], [2, 3, 0, 1], "nobody is there: 7"),
    (["x5.png", "x6.png", "x7.png", "x8.png"], ["o_5", "o_7", "o_9"], None, "of this video"),
    (["x5.png", "x6.png", "x7.png", "x8.png"], ["o_5", "o_7"], [1, 0, 2, 0], "nobody is there: 6"),
    (None, ["a_00", "b_00"], None, "several frames with one"), (None, ["v_00", "v_07"], None, "of this video")])
def test_frames_and_keypoints_are_matched(tmp_path, capsys, files, names, expected, said):
    files = files and {int(name[1]): Path(name) for name in files}
    video, keypoints = Video(Path("v.mp4"), files, 9, 9, np.arange(4) / 30), write_openpose(tmp_path / "k", names)
    if expected is None:
        with pytest.raises(InputError, match=said):
            read_keypoints(keypoints).matched(video)
        return
    frames = read_keypoints(keypoints).matched(video)
    assert [int(frame[0].joints[0, 0]) if frame else 0 for frame in frames] == expected
    assert said in capsys.readouterr().out


@pytest.mark.skipif(not EDN.is_dir(), reason="the sample of Everybody Dance Now is not there")
def test_the_courses_palette_matches_its_labels(tmp_path):
    """Redrawn from OpenPose's joints: at least 44 dB. Poses of three frames tell where the dancer stands as the joints
    do. The sample becomes a data set."""
    people = read_keypoints(EDN / "keypoints").matched()
    for part in ("train", "test"):
        for kind in ("img", "label"):
            shutil.copytree(EDN / f"train_{kind}", tmp_path / f"subject/{part}/{part}_{kind}")
    joints = np.stack([frame[0].joints for frame in people]) * (64 / 1920, 32 / 1080, 1)
    labels = [read_image(path, 32, 64).astype(float) for path in sorted((EDN / "train_label").iterdir())]
    for pose, label in zip(draw_poses(joints, 0, 32, 64, None), labels, strict=True):
        assert 10 * np.log10(255**2 / np.square(np.asarray(pose).transpose(2, 0, 1) - label).mean()) > 44
    drawn = [np.asarray(pose) for pose in draw_poses(joints, 0, 32, 64, None)]
    differences = np.subtract(standing_in([label.transpose(1, 2, 0) for label in labels]), standing_in(drawn))
    assert np.abs(differences).max() < 1, "hands and face, which are not drawn, hardly matter"
    assert run_inside("import_edn.py", tmp_path / "subject", "--out", tmp_path / "DR").returncode == 0
    assert Dataset_Dance(tmp_path / "DR", "train", train_vi_len=2).clips == [(0, 3)]


def test_a_subject_becomes_a_data_set(tmp_path, monkeypatch):
    write_numbered(tmp_path / "subject", "train", range(6), (64, 32))
    write_numbered(tmp_path / "subject", "test", range(11), (64, 32))
    monkeypatch.setattr("import_edn.LENGTH", 4)
    result = run_inside("import_edn.py", tmp_path / "subject", "--out", tmp_path / "DR")
    assert result.returncode == 0, result.stderr
    sequences = Dataset_Dance(tmp_path / "DR", "test").sequences
    assert [sequence.numbers for sequence in sequences] == [(0, 1, 2, 3), (0, 1, 2)]
    assert Dataset_Dance(tmp_path / "DR", "val").frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_the_man_from_the_lab_is_driven_by_pose_images(tmp_path):
    """A data set without keypoints, in the course's palette: the driven person stands where its pose images say."""
    data, driven = tmp_path / "DR", tmp_path / "driven"
    flags = ["--train_frames", 40, "--train_clips", 1, "--val_frames", 2, "--test_frames", 2, "--broken_poses", 0]
    assert run_inside("make_dataset.py", data, *flags, "--keypoints").returncode == 0
    joints = np.stack([f[0].joints for f in read_keypoints(data / "keypoints.json").matched()])
    for path, pose in zip(sorted((data / "train/train_label").iterdir()), draw_poses(joints, 0.3, 32, 64, None),
                          strict=True):
        pose.save(path)
    (data / "keypoints.json").unlink()
    other = ["--keypoints", data / "openpose/train", "--palette", "course"]
    result = run_inside("drive.py", "--DR", data, *other, "--out", driven)
    assert result.returncode == 0, result.stderr
    poses = [[np.asarray(Image.open(path)) for path in sorted(folder.iterdir())[1:]] for folder in (
        data / "train/train_label", driven / "test/test_label/0")]
    assert np.abs(np.subtract(*(standing_in(images) for images in poses))).max() < 0.5
    assert frames_per_second(driven) == 30
    del other[-2:]
    check_error(run_inside("drive.py", "--DR", data, *other, "--out", tmp_path / "new"), "--palette course")


def test_videos_have_a_rate_colours_and_start_at_once(dance, trained, tmp_path):
    colours = np.array([(200, 40, 40), (40, 200, 40), (40, 40, 200)], np.uint8)
    assert save_mp4(tmp_path / "a.mp4", [np.tile(colour, (32, 64, 1)) for colour in colours], 25) == ""
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = list(container.decode(video=0))
        assert container.streams.video[0].average_rate == 25
    assert {(f.colorspace, f.color_primaries, f.color_trc, f.color_range) for f in frames} == {(1, 1, 1, 1)}
    for frame, colour in zip(frames, colours, strict=True):
        assert np.abs(frame.to_ndarray(format="rgb24")[16, 32] - colour.astype(int)).max() < 6
    flags = ["--DR", dance, "--ckpt_path", trained[0] / "best.ckpt", "--no_baselines", "--device", "cpu"]
    for given, rate in ([], 30), (["--fps", 12], 12):
        assert run_inside("Tester.py", *flags, *given, "--save_root", tmp_path / "test").returncode == 0
        with av.open(str(tmp_path / "test/seq0/pred_seq.mp4")) as container:
            stream = container.streams.video[0]
            assert (stream.average_rate, stream.width, stream.height, stream.frames) == (rate, 128, 64, 10)


def test_no_python_and_no_registry_for_the_detector_are_one_line(dance, tmp_path, monkeypatch):
    environment, fake = tmp_path / "environment", tmp_path / "python"
    fake.write_text("#!/bin/sh\nmkdir -p $4/half\necho 'ERROR: No matching distribution found' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr("find_keypoints.ENVIRONMENT", environment)
    monkeypatch.setattr("find_keypoints.NEWEST", (3, 8))
    flags = [dance / "train/train_img", "--out", tmp_path / "new.json"]
    check_error(run_inside("find_keypoints.py", *flags), "mediapipe runs on Python 3.9 to 3.12")
    monkeypatch.setattr("find_keypoints.NEWEST", (9, 9))
    monkeypatch.setattr("sys.executable", str(fake))
    check_error(run_inside("find_keypoints.py", *flags), "mediapipe cannot be installed", "No matching distribution")
    assert list(tmp_path.iterdir()) == [fake], "no half of an environment"


@pytest.mark.skipif(not (ENVIRONMENT / "installed.txt").is_file(),
                    reason="the detector's environment is not there: run scripts/find_keypoints.py once")
def test_the_real_detector(tmp_path):
    """mediapipe finds nobody in grey images, and the joints of the man of the sample near OpenPose's."""
    none = tmp_path / "none.json"
    write_numbered(tmp_path, "train", range(2))
    check_error(run_inside("find_keypoints.py", tmp_path / "train/train_img", "--out", none), "no person")
    assert not none.exists()
    if not EDN.is_dir():
        pytest.skip("the sample of Everybody Dance Now is not there")
    assert run_inside("find_keypoints.py", EDN / "original", "--out", tmp_path / "k.json").returncode == 0
    ours, theirs = (np.stack([frame[0].joints for frame in read_keypoints(path).matched()])
                    for path in (tmp_path / "k.json", EDN / "keypoints"))
    both = (ours[..., 2] > 0.3) & (theirs[..., 2] > 0.3)
    distances = np.linalg.norm(ours - theirs, axis=-1)[both]
    assert np.median(distances) < 12 and distances.max() < 60
    heights = [find_standing(joints, 0.3, "").height for joints in (ours, theirs)]
    assert heights[0] == pytest.approx(heights[1], abs=30)
