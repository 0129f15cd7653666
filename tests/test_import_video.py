"""`scripts/import_video.py`: a film and a detector's files in, the course's layout out; bad input is one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from conftest import ROOT, check_error, run_inside
from PIL import Image

sys.path.insert(0, str(ROOT / "scripts"))

from import_video import find_cuts, find_framing, find_stretches, split

from dataloader import Dataset_Dance
from modules.pose.keypoints import BODY_25, COCO_17, COCO_18, follow, read_keypoints, to_person
from modules.pose.skeleton import NAMES, draw_poses, line_widths
from modules.pose.video import Video, choose_frames, open_video, read_frames
from modules.runtime import InputError
from modules.show.video import save_mp4

SIZE = ["--frame_H", 16, "--frame_W", 32]
T, CUT = 60, 30  # frames of the film, and the first behind its cut


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A dancer drawn at 32x64, as pictures, as film.mp4, and with his joints in files of every kind."""
    folder = tmp_path_factory.mktemp("drawn")
    result = run_inside("make_dataset.py", folder / "A", "--train_frames", T, "--train_clips", 2, "--val_frames", 2,
                        "--test_sequences", 1, "--test_frames", 10, "--broken_poses", 0, "--keypoints")
    assert result.returncode == 0, result.stderr
    files = sorted((folder / "A/train/train_img").iterdir())
    save_mp4(folder / "film.mp4", [np.asarray(Image.open(file)) for file in files], 30)
    write_kinds(folder / "A/openpose/train", folder)
    write_kinds(folder / "A/openpose/test/0", folder, "other_")
    return folder


def write_kinds(openpose, folder, prefix=""):
    """From a folder of BODY_25 the three other kinds: OpenPose's COCO, COCO annotations, a list of COCO results."""
    (folder / f"{prefix}coco_18").mkdir()
    results, images = [], []
    for t, file in enumerate(sorted(openpose.iterdir())):
        person = json.loads(file.read_text())["people"][0]["pose_keypoints_2d"]
        joints = {name: person[3 * i: 3 * i + 3] for i, name in enumerate(BODY_25)}
        text = json.dumps({"people": [{"pose_keypoints_2d": sum((joints[name] for name in COCO_18), [])}]})
        (folder / f"{prefix}coco_18" / f"film_{t:012d}_keypoints.json").write_text(text)
        images.append({"id": 1000 - t, "file_name": f"film_{t:06d}.jpg"})  # the names count, not the ids
        results.append({"image_id": t + 1, "category_id": 1, "keypoints": sum((joints[n] for n in COCO_17), [])})
    (folder / f"{prefix}results.json").write_text(json.dumps(results))
    annotations = [result | {"image_id": 1001 - result["image_id"], "id": i} for i, result in enumerate(results)]
    (folder / f"{prefix}annotations.json").write_text(json.dumps({"images": images, "annotations": annotations}))


def kinds(folder, prefix=""):
    openpose = folder / "A/openpose" / ("test/0" if prefix else "train")
    return [openpose, *(folder / f"{prefix}{name}" for name in ("coco_18", "annotations.json", "results.json"))]


def import_film(drawn, out, *flags, film="film.mp4", keypoints="A/openpose/train"):
    return run_inside("import_video.py", drawn / film, "--keypoints", drawn / keypoints, "--out", out, *SIZE, *flags)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def array(path):
    return np.asarray(Image.open(path).convert("RGB"), dtype=float)


def person_at(x, y, height=10.0):
    """Somebody who stands at (x, y): (J, 3)."""
    rows = np.linspace(0, 1, len(NAMES))
    return np.stack([x + 0.3 * height * np.cos(9 * rows), y - height * rows, np.ones_like(rows)], 1)


def test_the_whole_way(drawn, tmp_path):
    """Import a film, train two steps, drive with every kind of keypoints, test."""
    data, driven = tmp_path / "DR", tmp_path / "driven"
    result = import_film(drawn, data)
    assert result.returncode == 0, result.stderr
    assert "60 frames of 64x32, 30 a second" in result.stdout
    assert "Cuts of the video: 1, before frames 30" in result.stdout
    small = ["--F_dim", 16, "--L_dim", 8, "--N_dim", 4, "--D_out_dim", 16, "--train_vi_len", 4, "--device", "cpu"]
    result = run_inside("Trainer.py", "--DR", data, "--save_root", tmp_path / "run", *SIZE, *small, "--num_epoch", 1,
                        "--epoch_steps", 2, "--batch_size", 2)
    assert result.returncode == 0, result.stderr
    result = run_inside("drive.py", "--DR", data, "--keypoints", *kinds(drawn, "other_"), "--out", driven)
    assert result.returncode == 0, result.stderr
    result = run_inside("Tester.py", "--DR", driven, "--save_root", tmp_path / "predicted", "--device", "cpu",
                        "--ckpt_path", tmp_path / "run/best.ckpt")
    assert result.returncode == 0, result.stderr
    for index in range(4):
        with Image.open(tmp_path / f"predicted/seq{index}/pred_seq.gif") as gif:
            assert gif.n_frames == 10 and gif.size == (32, 16)
    last = [array(driven / f"test/test_label/{index}/frame000009.png") for index in range(4)]
    assert np.array_equal(last[2], last[3]), "the same joints in COCO's two forms"
    assert np.abs(last[1] - last[2]).mean() < 1, "17 joints and the neck that is made of them, or 18"


def test_every_kind_of_keypoints_is_the_same_person(drawn):
    people = [np.array(read_keypoints(path, T))[:, 0] for path in kinds(drawn)]
    toes = [NAMES.index(f"{side}_toe") for side in ("right", "left")]
    assert (people[0][:, toes, 2].any() and not people[1][:, toes, 2].any())
    for other in people[1:]:
        both = (people[0][..., 2] > 0) & (other[..., 2] > 0)
        both[:, [NAMES.index("neck"), NAMES.index("middle_hip")]] = False  # made of both sides where it is missing
        assert both.mean() > 0.7
        assert np.allclose(people[0][both], other[both], atol=1e-3)


def test_layout_numbering_and_split(drawn, tmp_path):
    assert import_film(drawn, tmp_path / "DR").returncode == 0
    data = tmp_path / "DR"
    assert names(data) == ["keypoints.json", "made_by_import_video.json", "test", "train", "val"]
    assert names(tmp_path) == ["DR"], "no temporary folder is left"
    train = Dataset_Dance(data, "train", 16, 32, train_vi_len=4)
    assert train.clips[0] == (0, CUT) and len(train.clips) == 2, "the cut is a jump in the numbering"
    assert names(data / "train/train_img") == names(data / "train/train_label")
    assert len(Dataset_Dance(data, "val", 16, 32).sequences) == 1
    assert len(Dataset_Dance(data, "test", 16, 32).sequences[0].poses) == len(names(data / "test/test_gt/0"))
    images = json.loads((data / "keypoints.json").read_text())["images"]
    assert [image["file_name"] for image in images] == [f"train/train_img/{name}" for name in names(
        data / "train/train_img")]


def test_frames_and_poses_are_those_of_the_film(drawn, tmp_path):
    """Against the pictures that the film was made of, resized as the data loader does it."""
    assert import_film(drawn, tmp_path / "DR").returncode == 0
    sources = sorted((drawn / "A/train/train_img").iterdir())
    for t, name in enumerate(names(tmp_path / "DR/train/train_img")):
        frame = array(tmp_path / "DR/train/train_img" / name)
        errors = [np.abs(frame - np.asarray(Image.open(s).resize((32, 16), Image.Resampling.BILINEAR))).mean()
                  for s in sources[max(0, t - 2): t + 3]]
        assert errors[min(t, 2)] < min(min(errors) + 0.1, 3)
        pose = array(tmp_path / "DR/train/train_label" / name)
        other = np.asarray(Image.open(str(sources[t]).replace("_img", "_label")).resize((32, 16)), dtype=float)
        ink, wanted = (255 - picture.min(-1) for picture in (pose, other))
        assert np.corrcoef(ink.ravel(), wanted.ravel())[0, 1] > 0.85


def test_a_folder_of_pictures_is_a_film_too(drawn, tmp_path):
    result = import_film(drawn, tmp_path / "DR", film="A/train/train_img")
    assert result.returncode == 0 and "taken as 30 a second" in result.stdout, result.stderr
    assert Dataset_Dance(tmp_path / "DR", "train", 16, 32, train_vi_len=4).clips[0] == (0, CUT)


def test_start_end_and_rate_choose_frames(drawn):
    film = open_video(drawn / "film.mp4")
    assert choose_frames(film, None, 0.5, 1.0).tolist() == list(range(15, 30))
    assert choose_frames(film, 10, 0, None).tolist() == list(range(0, 60, 3))
    assert choose_frames(film, 12, 1, 1.5).tolist() == [30, 32, 35, 37, 40, 42]


def ffmpeg(*words):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, words)], check=True)


def test_a_turned_film_is_read_as_it_is_shown(drawn, tmp_path):
    ffmpeg("-display_rotation", 90, "-i", drawn / "film.mp4", "-c", "copy", tmp_path / "turned.mp4")
    film = open_video(tmp_path / "turned.mp4")
    assert (film.height, film.width) == (64, 32)
    straight, turned = (np.asarray(next(read_frames(open_video(path))), dtype=float)
                        for path in (drawn / "film.mp4", tmp_path / "turned.mp4"))
    assert min(np.abs(np.rot90(straight, k) - turned).mean() for k in (1, 3)) < 1


def test_a_variable_rate_is_made_even_by_time(drawn, tmp_path):
    ffmpeg("-i", drawn / "film.mp4", "-vf", "select='not(between(n,5,9))'", "-fps_mode", "vfr", tmp_path / "v.mp4")
    film = open_video(tmp_path / "v.mp4")
    assert len(film.times) == T - 5 == len(list(read_frames(film))), "no frame is repeated by ffmpeg"
    assert film.uneven and not open_video(drawn / "film.mp4").uneven
    assert choose_frames(film, None, 0, None).tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, *range(5, T - 5)]


@pytest.mark.parametrize("fit, box, place", [
    ("crop", (0, 20, 80, 60), (0, 0, 32, 16)), ("letterbox", (0, 0, 80, 80), (8, 0, 16, 16))])
def test_framing_moves_pictures_and_joints_alike(fit, box, place):
    framing = find_framing(Video(Path(), None, 80, 80, np.arange(2), frozenset()), 16, 32, fit)
    assert framing.box == box and framing.place == place
    picture = Image.new("RGB", (80, 80))
    picture.paste("white", (48, 40, 56, 48))
    joints = framing.joints(np.array([[[52.0, 44.0, 1.0], [0, 0, 0]]]))
    ink = np.asarray(framing.image(picture), dtype=float)[..., 0]
    rows, columns = np.indices(ink.shape) + 0.5
    centre = [(columns * ink).sum() / ink.sum(), (rows * ink).sum() / ink.sum()]
    assert joints[0, 0, :2] == pytest.approx(centre, abs=0.1)
    assert not joints[0, 1].any(), "what was not found stays so"


def test_cuts_stand_out_from_motion():
    random = np.random.default_rng(0)
    film = np.cumsum(random.normal(0, 1, (60, 8, 8)), axis=0) + 100
    assert find_cuts(film) == []
    film[40:] += random.normal(0, 30, (8, 8))
    assert find_cuts(film) == [40]
    film[:20] = film[20]  # who stands still and then moves makes no cut
    assert find_cuts(film) == [40]


@pytest.mark.parametrize("stretches", [[(0, 1000)], [(0, 300), (310, 820), (820, 1000)], [(5 * i, 5 * i + 4) for i in
                                                                                          range(200)]])
def test_split_is_by_time_and_leaks_nothing(stretches):
    parts = split(stretches, 0.1, 0.1, gap=20)
    kept = {part: [t for begin, end in some for t in range(begin, end)] for part, some in parts.items()}
    assert max(kept["train"]) < min(kept["val"]) <= max(kept["val"]) < min(kept["test"])
    total = sum(end - begin for begin, end in stretches)
    assert total - 40 <= sum(map(len, kept.values())) <= total
    assert 0.7 * total < len(kept["train"]) < 0.9 * total and min(len(kept["val"]), len(kept["test"])) > 0.05 * total
    for one, other in (("train", "val"), ("val", "test")):
        last, first = max(kept[one]), min(kept[other])
        at_a_cut = first in [begin for begin, _ in stretches]
        assert at_a_cut or first - last > 20, "a border within a stretch leaves frames out"


def test_stretches_end_at_cuts_and_where_nobody_is():
    present = np.array([1, 1, 1, 0, 0, 1, 1, 1, 1, 0], dtype=bool)
    assert find_stretches(present, [7]) == [(0, 3), (5, 7), (7, 9)]


def test_the_one_who_is_followed():
    """Two people walk past each other: number 0 from the left goes right, the larger one left."""
    people = [np.array([person_at(80 - 2 * t, 30, 12), person_at(20 + 2 * t, 30)]) for t in range(30)]
    people[10] = people[10][:1]  # the detector misses number 0 once
    left = follow(people, 0.3, numbers=[0])
    assert left[:, :, 0].mean(1)[[0, 29]] == pytest.approx([people[0][1, :, 0].mean(), people[29][1, :, 0].mean()])
    assert not left[10].any(), "the other is not taken for him"
    assert follow(people, 0.3)[0, :, 0].mean() == pytest.approx(people[0][0, :, 0].mean()), "the largest"
    cut = [np.array([person_at(20, 30)])] * 5 + [np.array([person_at(90, 30)])] * 5
    assert follow(cut, 0.3, frozenset([5]))[..., 2].any(1).all(), "behind a cut he may be anywhere"
    both = follow(people, 0.3, frozenset([20]), numbers=[0, 0])
    places = [people[19][1, :, 0].mean(), people[20][0, :, 0].mean()]
    assert both[[19, 20], :, 0].mean(1) == pytest.approx(places), "behind a cut he is who the user says"
    with pytest.raises(InputError, match="--person 2: frame 0 is the first with people and has 2"):
        follow(people, 0.3, numbers=[2])


def test_frames_without_the_person_are_cuts_and_counted(drawn, tmp_path):
    keypoints = tmp_path / "keypoints"
    shutil.copytree(drawn / "A/openpose/train", keypoints)
    for t in (10, 11):
        sorted(keypoints.iterdir())[t].write_text('{"people": []}')
    result = import_film(drawn, tmp_path / "DR", keypoints=keypoints)
    assert result.returncode == 0 and "in 58 of 60 frames" in result.stdout, result.stderr
    assert Dataset_Dance(tmp_path / "DR", "train", 16, 32, train_vi_len=4).clips[:2] == [(0, 10), (10, 28)]


def test_joints_below_the_confidence_are_not_drawn():
    joints = np.array([person_at(32, 28, 24)])
    joints[0, NAMES.index("right_wrist"), 2] = 0.2
    without = joints * (joints[..., 2:] > 0.2)
    pictures = [next(draw_poses(some, least, 32, 64, line_widths(32))).tobytes() for some, least in (
        (joints, 0.3), (without, 0.1), (joints, 0.1))]
    assert pictures[0] == pictures[1] != pictures[2]


def test_lines_survive_small_frames():
    """At 16x32 a limb still reaches its full colour somewhere; drawn large and made smaller it does not."""
    joints = np.array([person_at(16, 14, 12)])
    drawn_for_size = np.asarray(next(draw_poses(joints, 0.3, 16, 32, line_widths(16))), dtype=float)
    thin = np.asarray(next(draw_poses(joints, 0.3, 16, 32, line_widths(16, 0.2))), dtype=float)
    assert drawn_for_size.min(axis=(0, 1)).max() < 20 and thin.min(axis=(0, 1)).max() > 60


def spoil(folder, what):
    """Make of a copy of the drawn film and its keypoints what an error is about; returns (film, keypoints)."""
    film, keypoints = folder / "film.mp4", folder / "A/openpose/train"
    files = sorted(keypoints.iterdir())
    if what == "nobody":
        for file in files:
            file.write_text('{"people": []}')
    elif what == "frames":
        files[-1].unlink()
    elif what == "json":
        files[7].write_text('{"people": [{"pose_key')
    elif what == "joints":
        files[7].write_text(json.dumps({"people": [{"pose_keypoints_2d": [1.0] * 45}]}))
    elif what == "people":
        files[7].write_text("[1, 2]")
    elif what == "sound":
        ffmpeg("-f", "lavfi", "-i", "sine=d=1", film)
    elif what == "text":
        film.write_text("no film")
    elif what == "results":
        keypoints = folder / "results.json"
        keypoints.write_text(json.dumps(json.loads(keypoints.read_text())[:-10]))
    elif what == "shares":
        for file in files:
            people = np.reshape(json.loads(file.read_text())["people"][0]["pose_keypoints_2d"], (-1, 3)) / (64, 32, 1)
            file.write_text(json.dumps({"people": [{"pose_keypoints_2d": people.ravel().tolist()}]}))
    elif what == "large":
        ffmpeg("-i", film, "-vf", "crop=16:16:0:0", folder / "part.mp4")
        film = folder / "part.mp4"
    elif what == "missing":
        keypoints = folder / "nothing"
    elif what == "empty":
        keypoints = folder / "empty"
        keypoints.mkdir()
    elif what == "no coco":
        keypoints = folder / "results.json"
        keypoints.write_text('{"version": 1}')
    return film, keypoints


@pytest.mark.parametrize("what, words", [
    ("nobody", ["no person in it"]), ("frames", ["59 frames", "the video has 60"]), ("json", ["JSON"]),
    ("joints", ["15 joints", "expected 25"]), ("people", ['no list "people"']), ("sound", ["no video frame"]),
    ("text", ["no video frame"]), ("results", ["end at 50", "has 60"]), ("shares", ["expected pixels"]),
    ("large", ["lie outside the video's 16x16"]), ("missing", ["not found"]), ("empty", ["no *_keypoints.json"]),
    ("no coco", ["expected COCO's"])])
def test_what_it_cannot_use_is_one_line_and_leaves_nothing(drawn, tmp_path, what, words):
    copy = tmp_path / "copy"
    shutil.copytree(drawn, copy)
    film, keypoints = spoil(copy, what)
    result = run_inside("import_video.py", film, "--keypoints", keypoints, "--out", tmp_path / "DR", *SIZE)
    check_error(result, *words)
    assert names(tmp_path) == ["copy"]


@pytest.mark.parametrize("flags, words", [
    (["--frame_H", 20], "--frame_H: 20"), (["--fps", 60], "--fps 60"), (["--start", 5], "--start 5"),
    (["--end", "-1"], "--end"), (["--val_share", 0.9], "--val_share"), (["--person", 3], "--person 3"),
    (["--fps", "fast"], "--fps"), (["--end", 0.1], "too few")])
def test_bad_flags_are_one_line(drawn, tmp_path, flags, words):
    check_error(import_film(drawn, tmp_path / "DR", *flags), words)
    assert names(tmp_path) == []


def test_results_may_end_where_the_film_is_cut_off(drawn, tmp_path):
    """A list of results does not say that nobody is in the last frames."""
    results = json.loads((drawn / "results.json").read_text())
    (tmp_path / "short.json").write_text(json.dumps(results[:50]))
    flags = [tmp_path / "DR", "--end", 50 / 30]
    result = import_film(drawn, *flags, keypoints=tmp_path / "short.json")
    assert result.returncode == 0 and "in 50 of 50 frames" in result.stdout, result.stderr
    whole = read_keypoints(drawn / "results.json", T)
    for one, other in zip(read_keypoints(tmp_path / "short.json", T, 50), whole[:50], strict=False):
        assert np.array_equal(one, other)


def test_overwrite_replaces_only_its_own(drawn, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    check_error(import_film(drawn, mine, "--overwrite"), "did not write")
    assert names(mine) == ["notes.txt"]
    assert import_film(drawn, tmp_path / "DR").returncode == 0
    check_error(import_film(drawn, tmp_path / "DR"), "--overwrite")
    before = (tmp_path / "DR/keypoints.json").read_bytes()
    check_error(import_film(drawn, tmp_path / "DR", "--overwrite", "--person", 9), "--person 9")
    assert (tmp_path / "DR/keypoints.json").read_bytes() == before, "a failed run leaves the old set"
    assert import_film(drawn, tmp_path / "DR", "--overwrite", "--end", 1.5).returncode == 0
    assert (tmp_path / "DR/keypoints.json").read_bytes() != before


@pytest.mark.parametrize("values", ["text", [1, 2], [[1, 2, 3]] * 25, ["a"] * 75, None, [1.0] * 45, {"x": 1}])
def test_no_flat_list_of_known_length_is_an_input_error(values):
    with pytest.raises(InputError):
        to_person(values, Path("file.json"))


def test_confidences_are_within_0_and_1():
    person = to_person([5, 6, 2] * 16 + [float("nan"), 1, 1], Path("file.json"))
    assert person[..., 2].max() == 1 and np.isfinite(person).all()
    assert not person[NAMES.index("right_ankle")].any(), "what is no number was not found"


@pytest.mark.parametrize("contents", [
    "[" * 100_000, '[{"image_id": 1, "keypoints": []}, {"image_id": 100000000000000, "keypoints": []}]', "{}", "[[]]",
    '{"images": [{"id": 0}], "annotations": [{"image_id": 5, "keypoints": []}]}', '{"images": 3, "annotations": []}'])
def test_odd_json_is_an_input_error(tmp_path, contents):
    (tmp_path / "odd.json").write_text(contents)
    with pytest.raises(InputError):
        read_keypoints(tmp_path / "odd.json")
