"""`scripts/import_video.py`: a video and a detector's files in, the course's layout out; bad input is one line."""

import json
import subprocess
from pathlib import Path

import imageio.v3 as imageio
import imageio_ffmpeg
import numpy as np
import pytest
from conftest import SMALL, check_error, run_inside
from import_video import find_cuts, find_stretches, frame_of, joints_in_frame, split
from PIL import Image

from dataloader import Dataset_Dance
from modules.pose.keypoints import BODY_25, COCO_17, COCO_18, Found, follow, read_keypoints
from modules.pose.skeleton import NAMES, draw_poses
from modules.pose.video import Video, choose_frames, open_video, read_frames
from modules.runtime import InputError

SIZE = ["--frame_H", 16, "--frame_W", 32]
T, CUT = 60, 30  # frames of the video, and the first after its cut
KINDS = ("A/openpose/train", "coco_18", "annotations.json", "results.json")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A dancer drawn at 32x64, as images, as video.mp4, and the dancer's joints in files of every kind."""
    folder = tmp_path_factory.mktemp("drawn")
    result = run_inside("make_dataset.py", folder / "A", "--train_frames", T, "--train_clips", 2, "--val_frames", 2,
                        "--test_sequences", 1, "--test_frames", 10, "--broken_poses", 0, "--keypoints")
    assert result.returncode == 0, result.stderr
    frames = [np.asarray(Image.open(file)) for file in sorted((folder / "A/train/train_img").iterdir())]
    imageio.imwrite(folder / "video.mp4", frames, plugin="FFMPEG", fps=30, quality=9)
    (folder / "coco_18").mkdir()
    results, images = [], []
    for t, file in enumerate(sorted((folder / "A/openpose/train").iterdir())):
        person = json.loads(file.read_text())["people"][0]["pose_keypoints_2d"]
        joints = {name: person[3 * i: 3 * i + 3] for i, name in enumerate(BODY_25)}
        text = json.dumps({"people": [{"pose_keypoints_2d": sum((joints[name] for name in COCO_18), [])}]})
        (folder / "coco_18" / f"video_{t:012d}_keypoints.json").write_text(text)
        images.append({"id": 1000 - t, "file_name": f"video_{t:06d}.jpg"})  # the names count, not the ids
        results.append({"image_id": t + 1, "category_id": 1, "keypoints": sum((joints[n] for n in COCO_17), [])})
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "short.json").write_text(json.dumps(results[:50]))
    annotations = [result | {"image_id": 1001 - result["image_id"], "id": i} for i, result in enumerate(results)]
    (folder / "annotations.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return folder


def ffmpeg(*words):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, words)], check=True)


def import_drawn(drawn, out, *flags, video="video.mp4", keypoints="A/openpose/train"):
    return run_inside("import_video.py", drawn / video, "--keypoints", drawn / keypoints, "--out", out, *SIZE, *flags)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def array(path):
    return np.asarray(Image.open(path).convert("RGB"), dtype=float)


def small_array(path):
    return np.asarray(Image.open(path).resize((32, 16), Image.Resampling.BILINEAR), dtype=float)


def joints_of(frames):
    """The first person of every frame: (T, J, 3)."""
    return np.array([people[0].joints for people in frames])


def found(joints, score=1.0, track=""):
    return Found(np.asarray(joints), score, track)


def person_at(x, y, height=10.0):
    """A person who stands at (x, y): (J, 3)."""
    rows = np.linspace(0, 1, len(NAMES))
    return np.stack([x + 0.3 * height * np.cos(9 * rows), y - height * rows, np.ones_like(rows)], 1)


def test_the_whole_way(drawn, tmp_path):
    """Import a video, train two steps, drive, test."""
    data, driven, run = (tmp_path / name for name in ("DR", "driven", "run"))
    quick = ["--device", "cpu", "--pictures", "none"]
    small = [*SMALL, "--preset", "template", "--num_epoch", 1, "--epoch_steps", 2]
    for program, *flags in (
            ("import_video.py", drawn / "video.mp4", "--keypoints", drawn / KINDS[0], "--out", data, *SIZE),
            ("Trainer.py", "--DR", data, "--save_root", run, *small, *quick),
            ("drive.py", "--DR", data, "--keypoints", drawn / "A/openpose/test/0", "--out", driven),
            ("Tester.py", "--DR", driven, "--save_root", run, "--ckpt_path", run / "best.ckpt", *quick)):
        result = run_inside(program, *flags)
        assert result.returncode == 0, result.stderr


def test_every_kind_of_keypoints_is_the_same_person(drawn):
    people = [joints_of(read_keypoints(drawn / kind).matched(open_video(drawn / "video.mp4"))) for kind in KINDS]
    toes = [NAMES.index(f"{side}_toe") for side in ("right", "left")]
    assert people[0][:, toes, 2].any() and not people[1][:, toes, 2].any()
    assert np.array_equal(people[2], people[3]), "the same joints in COCO's two forms"
    for other in people[1:]:
        both = (people[0][..., 2] > 0) & (other[..., 2] > 0)
        both[:, [NAMES.index("neck"), NAMES.index("middle_hip")]] = False  # made of both sides where it is missing
        assert both.mean() > 0.7
        assert np.allclose(people[0][both], other[both], atol=1e-3)


@pytest.mark.parametrize("video, said, level", [
    ("video.mp4", "60 frames of 64x32, 30 a second", 3), ("A/train/train_img", "taken as 30 a second", 0.1)])
def test_layout_numbering_and_images(drawn, tmp_path, video, said, level):
    """Frames and poses are those of the video, or of the folder of images, resized as the data loader does it; two
    frames without the person are cuts."""
    data, keypoints = tmp_path / "DR", tmp_path / "keypoints"
    keypoints.mkdir()
    for t, file in enumerate(sorted((drawn / KINDS[0]).iterdir())):
        (keypoints / file.name).write_text('{"people": []}' if t in (10, 11) else file.read_text())
    result = import_drawn(drawn, data, video=video, keypoints=keypoints)
    assert result.returncode == 0, result.stderr
    for words in (said, "in 58 of 60 frames", "Cuts of the video: 1, before frames 30"):
        assert words in result.stdout
    assert names(data) == ["info.json", "keypoints.json", "made_by_import_video.json", "test", "train", "val"]
    assert names(tmp_path) == ["DR", "keypoints"], "no temporary folder is left"
    train = Dataset_Dance(data, "train", 16, 32, train_vi_len=4)
    assert train.clips[:2] == [(0, 10), (10, CUT - 2)] and len(train.clips) == 3
    frames = names(data / "train/train_img")
    assert frames == names(data / "train/train_label")
    assert len(Dataset_Dance(data, "val", 16, 32).sequences) == 1
    assert len(Dataset_Dance(data, "test", 16, 32).sequences[0].poses) == len(names(data / "test/test_gt/0"))
    images = json.loads((data / "keypoints.json").read_text())["images"]
    assert [image["file_name"] for image in images] == [f"train/train_img/{name}" for name in frames]
    sources = [source for t, source in enumerate(sorted((drawn / "A/train/train_img").iterdir())) if t not in (10, 11)]
    resized = [small_array(source) for source in sources]
    for t, name in enumerate(frames):
        errors = [np.abs(array(data / "train/train_img" / name) - image).mean() for image in resized]
        assert errors[t] < min(min(errors) + 0.1, level)
        drawn_pose = small_array(str(sources[t]).replace("_img", "_label"))
        ink = [255 - image.min(-1).ravel() for image in (array(data / "train/train_label" / name), drawn_pose)]
        assert np.corrcoef(ink)[0, 1] > 0.85


@pytest.mark.parametrize("name, options, turns, size", [
    ("turned.mov", ["-display_rotation", 90, "-i", "video.mp4", "-c", "copy"], 1, (32, 64)),
    ("sound.mkv", ["-f", "lavfi", "-i", "sine=d=1", "-i", "video.mp4", "-map", 0, "-map", 1, "-c:v", "copy"], 0,
     (64, 32)),
    ("wide.mp4", ["-i", "video.mp4", "-vf", "scale=32:32,setsar=2", "-crf", 8], 0, (64, 32)),
    ("odd.avi", ["-i", "video.mp4", "-vf", "format=rgb24,pad=65:33", "-c:v", "ffv1", "-pix_fmt", "bgr0"], 0, (65, 33))])
def test_a_video_is_read_as_it_is_shown(drawn, tmp_path, monkeypatch, name, options, turns, size):
    monkeypatch.chdir(drawn)
    ffmpeg(*options, tmp_path / name)
    video = open_video(tmp_path / name)
    frames, straight = list(read_frames(video)), next(read_frames(open_video(Path("video.mp4"))))
    assert len(frames) == len(video.times) == T and frames[0].size == (video.width, video.height) == size
    assert video.rate == pytest.approx(30, rel=0.05) and not video.uneven
    rotated = np.rot90(np.asarray(straight, dtype=float), turns)
    shown = np.asarray(frames[0])[: rotated.shape[0], : rotated.shape[1]]
    assert np.abs(rotated - shown).mean() < (5 if name == "wide.mp4" else 1)


def test_transparency_and_hdr(tmp_path):
    """Transparent pixels are white; HDR is refused."""
    ffmpeg("-f", "lavfi", "-i", "color=red@0.5:s=32x16:d=0.2,format=rgba", "-c:v", "qtrle", tmp_path / "half.mov")
    assert np.abs(np.asarray(next(read_frames(open_video(tmp_path / "half.mov"))))[8, 8] - (255.0, 127, 127)).max() < 4
    ffmpeg("-f", "lavfi", "-i", "color=white:s=32x16:d=0.2", "-vf", "setparams=color_trc=smpte2084,format=yuv420p",
           "-c:v", "libx264", tmp_path / "pq.mp4")
    with pytest.raises(InputError, match="HDR"):
        open_video(tmp_path / "pq.mp4")


@pytest.mark.parametrize("spoil", [lambda data: data[: len(data) * 2 // 3], lambda data: data[:-3000] + b"x" * 3000])
def test_a_damaged_video_is_named_as_damaged(drawn, tmp_path, spoil):
    ffmpeg("-i", drawn / "video.mp4", "-c", "copy", "-movflags", "+faststart", tmp_path / "whole.mp4")
    (tmp_path / "cut.mp4").write_bytes(spoil((tmp_path / "whole.mp4").read_bytes()))
    with pytest.raises(InputError, match="damaged"):
        open_video(tmp_path / "cut.mp4")


def test_frames_are_chosen_by_time(drawn, tmp_path):
    video = open_video(drawn / "video.mp4")
    assert choose_frames(video, None, 0.5, 1.0).tolist() == list(range(15, 30))
    assert choose_frames(video, 10, 0, None).tolist() == list(range(0, 60, 3))
    assert choose_frames(video, 12, 1, 1.5).tolist() == [30, 32, 35, 37, 40, 42]
    variable = tmp_path / "variable.mp4"
    ffmpeg("-i", video.path, "-vf", "select='not(between(n,5,9))'", "-fps_mode", "vfr", variable)
    variable = open_video(variable)
    assert len(variable.times) == T - 5 == len(list(read_frames(variable))), "no frame is repeated by ffmpeg"
    assert np.allclose(variable.times, [t / 30 for t in range(T) if not 5 <= t <= 9], atol=1e-3) and variable.uneven
    assert choose_frames(variable, None, 0, None).tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, *range(5, T - 5)]


@pytest.mark.parametrize("fit, middle", [("crop", (20.8, 9.6)), ("letterbox", (18.4, 8.8))])
def test_images_and_joints_are_moved_alike(fit, middle):
    image = Image.new("RGB", (80, 80))
    image.paste("white", (48, 40, 56, 48))
    video = Video(Path(), None, 80, 80, np.arange(2))
    joints = joints_in_frame(np.array([[[52.0, 44.0, 1.0], [0, 0, 0]]]), video, (32, 16), fit)
    ink = np.asarray(frame_of(image, (32, 16), fit), dtype=float)[..., 0]
    assert joints[0, 0, :2] == pytest.approx(middle)
    rows, columns = np.indices(ink.shape) + 0.5
    centre = [(columns * ink).sum() / ink.sum(), (rows * ink).sum() / ink.sum()]
    assert joints[0, 0, :2] == pytest.approx(centre, abs=0.1)
    assert not joints[0, 1].any(), "a joint that was not found stays so"


def test_cuts_stand_out_from_motion_and_end_stretches():
    random = np.random.default_rng(0)
    frames = np.cumsum(random.normal(0, 1, (60, 8, 8)), axis=0) + 100
    assert find_cuts(frames) == []
    frames[40:] += random.normal(0, 30, (8, 8))
    assert find_cuts(frames) == [40]
    frames[:20] = frames[20]  # standing still and then moving makes no cut
    assert find_cuts(frames) == [40]
    present = np.array([1, 1, 1, 0, 0, 1, 1, 1, 1, 0], dtype=bool)
    assert find_stretches(present, [7]) == [(0, 3), (5, 7), (7, 9)]


@pytest.mark.parametrize("stretches", [
    [(0, 300), (310, 820), (820, 1000)], [(5 * i, 5 * i + 4) for i in range(200)]])
def test_split_is_by_time_and_leaks_nothing(stretches):
    parts = split(stretches, 0.1, 0.1, gap=20)
    kept = {part: [t for stretch in pieces for t in range(*stretch)] for part, pieces in parts.items()}
    assert max(kept["train"]) < min(kept["val"]) <= max(kept["val"]) < min(kept["test"])
    total = sum(end - begin for begin, end in stretches)
    assert total - 40 <= sum(map(len, kept.values())) <= total
    assert 0.7 * total < len(kept["train"]) < 0.9 * total and min(len(kept["val"]), len(kept["test"])) > 0.05 * total
    assert min(min(kept["val"]) - max(kept["train"]), min(kept["test"]) - max(kept["val"])) > 20


def test_the_person_who_is_followed(capsys):
    """Two people walk past each other: number 0 from the left goes right, the larger one left."""
    people = [[found(person_at(80 - 2 * t, 30, 12), 0.9, "4"), found(person_at(20 + 2 * t, 30), 0.9, "7")]
              for t in range(30)]
    alone = [[person._replace(track="") for person in frame] for frame in people]
    alone[10] = alone[10][:1]  # the detector misses number 0 once
    ends = [people[t][1].joints[:, 0].mean() for t in (0, 29)]
    left = follow(alone, 0.3, who="0")
    assert left[:, :, 0].mean(1)[[0, 29]] == pytest.approx(ends) and "from frames 11 on" in capsys.readouterr().err
    assert not left[10].any(), "the other person does not replace number 0"
    assert follow(alone, 0.3)[0, :, 0].mean() == pytest.approx(people[0][0].joints[:, 0].mean()), "the largest"
    assert follow(people, 0.3, who="id:7")[:, :, 0].mean(1)[[0, 29]] == pytest.approx(ends)
    cut = [[found(person_at(20, 30))]] * 5 + [[found(person_at(90, 30))]] * 5
    assert follow(cut, 0.3, [5])[..., 2].any(1).all(), "after a cut the person may be anywhere"
    capsys.readouterr()
    for step, told in ((0.3, False), (0.7, True)):  # body heights between two frames
        follow([[found(person_at(20, 30))], [found(person_at(20 + 10 * step, 30))]], 0.3)
        assert ("from frames 1 on" in capsys.readouterr().err) == told, "a detector of one person may jump"
    for who, words in (("2", "--person 2: the first frame with people has 2"), ("id:5", "numbers 4, 7")):
        with pytest.raises(InputError, match=words):
            follow(people, 0.3, who=who)


def test_scores_and_numbers_of_people_count(capsys):
    """A large ghost of a low score is not followed, nor one that halves the score; a change of number is told."""
    dancer, ghost = person_at(20, 30), person_at(60, 31, 14)
    for score in (0.05, 0.6):
        joints = follow([[found(ghost, score), found(dancer, 0.9)]] * 2, 0.3)
        assert np.array_equal(joints[1], dancer)
    swapped = [[found(dancer, 0.9, "1"), found(ghost, 0.5, "2")], [found(ghost, 0.5, "2"), found(dancer, 0.9, "1")],
               [found(dancer, 0.9, "3")]]
    assert np.array_equal(follow(swapped, 0.3)[1], dancer) and "from frames 2 on" in capsys.readouterr().err


def test_joints_below_the_confidence_are_not_drawn():
    joints = np.array([person_at(32, 28, 24)])
    joints[0, NAMES.index("right_wrist"), 2] = 0.2
    without = joints * (joints[..., 2:] > 0.2)
    images = [next(draw_poses(people, least, 32, 64, (1.2, 1))).tobytes() for people, least in (
        (joints, 0.3), (without, 0.1), (joints, 0.1))]
    assert images[0] == images[1] != images[2]


def people(numbers):
    return json.dumps({"people": [{"pose_keypoints_2d": np.ravel(numbers).tolist()}]})


@pytest.mark.parametrize("video, keypoints, flags, words", [  # ffmpeg's options; a path, or each file's text
    (["-f", "lavfi", "-i", "sine=d=1"], KINDS[0], "", "0 video frames"),
    (["-i", "video.mp4", "-frames:v", 1], KINDS[0], "", "1 video frames"),
    (["-i", "video.mp4", "-vf", "crop=16:16:0:0"], KINDS[0], "", "lie outside the 32x16 frames"),
    ([], lambda numbers: '{"people": []}', "", "no person in it"),
    ([], lambda numbers: '{"people": [{"pose_key', "", "JSON"),
    ([], lambda numbers: "[1, 2]", "", "an unknown form, [1, 2]"),
    ([], lambda numbers: people([1.0] * 45), "", "15 joints; expected 3 numbers each"),
    ([], lambda numbers: people(numbers / (64, 32, 1)), "", "expected pixels"),
    ([], "A/openpose/test/0", "", "10 frames, numbered 0 to 9; the video has 60"),
    ([], "nothing", "", "not found"), ([], "A/train/train_img", "", "a folder of 60 files"),
    *(([], KINDS[0], flags, words) for flags, words in (
        ("--frame_H 20", "--frame_H 20"), ("--fps 60", "--fps 60"), ("--start 5", "--start 5"), ("--end -1", "--end"),
        ("--val_share 0.9", "--val_share"), ("--person 3", "--person 3"), ("--end 0.1", "too few"),
        ("--out {}", "mine is not empty"), ("--out {}/notes.txt", "not a folder")))])
def test_what_it_cannot_use_is_one_line(drawn, tmp_path, monkeypatch, video, keypoints, flags, words):
    monkeypatch.chdir(drawn)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    if video:
        ffmpeg(*video, mine / "other.mp4")
    if callable(keypoints):
        for file in Path(KINDS[0]).iterdir():
            numbers = np.reshape(json.loads(file.read_text())["people"][0]["pose_keypoints_2d"], (25, 3))
            (mine / file.name).write_text(keypoints(numbers))
        keypoints = mine
    video, before = mine / "other.mp4" if video else "video.mp4", names(mine)
    result = import_drawn(drawn, tmp_path / "DR", *flags.format(mine).split(), video=video, keypoints=keypoints)
    check_error(result, words)
    assert names(tmp_path) == ["mine"] and names(mine) == before


@pytest.mark.parametrize("contents", [
    "[" * 100_000, '[{"image_id": 1}, {"image_id": 100000000000000}]', '{"images": 3, "annotations": []}',
    '{"images": [{"id": 0}], "annotations": [{"image_id": 5, "keypoints": []}]}',
    *(f'[{{"image_id": 1, "keypoints": {values}}}]' for values in ('"text"', "[1, 2]", '["a", "b", "c"]', "1e400"))])
def test_odd_json_is_an_input_error(tmp_path, contents):
    (tmp_path / "odd.json").write_text(contents)
    with pytest.raises(InputError):
        read_keypoints(tmp_path / "odd.json").matched()
