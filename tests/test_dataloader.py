"""Dataset_Dance: the layout, pairs, cuts, windows, the cache, and what is checked before anything is decoded."""

import os

import numpy as np
import pytest
import torch
from conftest import write_numbered, write_picture
from PIL import Image

import modules.data.image_cache as image_cache
import modules.files
from dataloader import Dataset_Dance
from modules.data.image_cache import default_cache_dir
from modules.data.layout import find_root
from modules.data.pairing import find_clips
from modules.data.truth import find_truth
from modules.runtime import InputError, collect_errors


def make(root, mode="train", **flags):
    flags = {"frame_H": 4, "frame_W": 8, "train_vi_len": 4, "cache_dir": root / "cache", "workers": 2} | flags
    return Dataset_Dance(root, mode, **flags)


def levels(images):
    return images[:, 0, 0, 0].tolist()


def write_test(root, name, firsts, poses):
    """A test sequence whose grey levels are the numbers."""
    for kind, numbers in (("img", firsts), ("label", poses)):
        for number in numbers:
            write_picture(root / f"test/test_{kind}" / name / f"frame{number:06d}.png", number)


@pytest.fixture
def root(tmp_path):
    """Training frames 0..9 and 50..57 (a cut between them), validation frames 0..5; grey level = number."""
    write_numbered(tmp_path, "train", [*range(10), *range(50, 58)])
    write_numbered(tmp_path, "val", range(6))
    return tmp_path


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded from here on."""
    names, original = [], image_cache.read_image

    def read(path, *arguments):
        names.append(path.name)
        return original(path, *arguments)

    monkeypatch.setattr(image_cache, "read_image", read)
    return names


# pairs, clips, windows


def test_frames_pair_with_their_poses_by_number_and_windows_do_not_cross_the_cut(root):
    for path in (root / "train/train_label").iterdir():
        path.rename(path.with_name(f"pose_{int(path.stem[5:])}.png"))
    data = make(root)
    assert levels(data.frames) == [*range(10), *range(50, 58)]
    assert torch.equal(data.poses, 255 - data.frames)
    assert data.clips == [(0, 10), (10, 18)]
    assert data.windows(1.0).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [10, 11, 12, 13], [14, 15, 16, 17]]
    assert len(data) == 4 and all(torch.equal(poses, 255 - frames) for frames, poses in (data[i] for i in range(4)))
    assert data.windows(0.5).max() <= 8 and len(make(root, partial=0.5)) == 2


@pytest.mark.parametrize("numbers, clips", [
    ([*range(10), *range(50, 58)], [(0, 10), (10, 18)]),
    ([0, 3, 6, 9, 12, 14, 17, 20], [(0, 5), (5, 8)]),
    ([0, 1, 2, 4, 6, 7, 8], [(0, 3), (3, 4), (4, 7)]),
    ([7], [(0, 1)]),
])
def test_clips_are_runs_of_the_most_common_step(numbers, clips):
    assert find_clips(numbers) == clips


def test_validation_is_cut_into_whole_sequences(root):
    assert [len(s.frames) for s in make(root, "val").sequences] == [6]
    sequences = make(root, "val", val_vi_len=2).sequences
    assert [s.numbers for s in sequences] == [(0, 1), (2, 3), (4, 5)] and levels(sequences[1].frames) == [2, 3]


def test_folders_one_level_down_are_clips(tmp_path):
    for name, length in (("walk2", 5), ("walk10", 6)):
        for kind in ("img", "label"):
            for number in range(length):
                write_picture(tmp_path / f"train/train_{kind}/{name}/{number}.png", number)
    data = make(tmp_path)
    assert data.clips == [(0, 5), (5, 11)] and levels(data.poses) == [*range(5), *range(6)]


@pytest.mark.parametrize("place", ["", "train", "train/train", "a/train", "LAB4/LAB4/train"])
def test_the_data_set_is_found_where_archives_unpack_it(tmp_path, place):
    write_numbered(tmp_path / "x", "train", range(5))
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for kind in ("img", "label"):
        (tmp_path / f"x/train/train_{kind}").rename(tmp_path / place / f"train_{kind}")
    assert len(make(tmp_path).frames) == 5


def test_neighbours_that_cannot_be_listed_are_skipped(tmp_path, monkeypatch):
    scandir = os.scandir

    def closed(path):
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    write_numbered(tmp_path / "data", "train", range(5))
    (tmp_path / "closed").mkdir()
    assert find_root(tmp_path) == tmp_path / "data"
    (tmp_path / "data.zip").touch()
    for name, words in (("closed", "holds no train/train_img"), ("data.zip", "Not a directory"), ("x", "not found")):
        with pytest.raises(InputError, match=f"{name}: .*{words}.*--DR"):
            find_root(tmp_path / name)


# test sequences and their true frames


@pytest.mark.parametrize("firsts, poses, numbers, shown, words", [
    ([7], range(7, 10), (7, 8, 9), [7, 8, 9], ""),
    ([0], range(1, 5), (0, 1, 2, 3, 4), [1, 1, 2, 3, 4], "4 of 4 poses follow the first frame, frame000000.png"),
    ([3], range(8), (3, 4, 5, 6, 7), [3, 4, 5, 6, 7], "4 of 8 poses follow the first frame"),
    ([7, 5, 6], range(5, 9), (5, 6, 7, 8), [5, 6, 7, 8], "the first frame, frame000005.png"),
    ([4], [4, 5, 8, 9], (4, 5, 8, 9), [4, 5, 8, 9], ""),
])
def test_the_first_frames_number_finds_its_pose(tmp_path, capsys, firsts, poses, numbers, shown, words):
    write_test(tmp_path, "0", firsts, poses)
    (sequence,) = make(tmp_path, "test").sequences
    assert levels(sequence.frames) == [numbers[0]] and levels(sequence.poses) == shown
    assert sequence.numbers == numbers and words in capsys.readouterr().out


def test_every_test_folder_is_taken_or_named(tmp_path, capsys):
    for name in ("walk10", "walk2", "10", "9"):
        write_test(tmp_path, name, [0], range(3))
    write_test(tmp_path, "alone", [0], [])
    data = make(tmp_path, "test")
    assert [sequence.name for sequence in data.sequences] == ["9", "10", "walk2", "walk10"]
    assert "no such folder: alone" in capsys.readouterr().out
    write_test(tmp_path, "8", [], range(3))
    write_test(tmp_path, "7", [], range(3))
    write_test(tmp_path, "6", [0], range(50, 55))
    with pytest.raises(InputError, match="poses 50 to 54, but the first frame is 0.*7, 8: no first frame .*--skip_bad"):
        make(tmp_path, "test")
    assert len(make(tmp_path, "test", skip_bad=True).sequences) == 4


def test_true_frames_pair_by_number(tmp_path):
    write_test(tmp_path, "0", [2], range(6))
    for number in range(1, 8):
        write_picture(tmp_path / f"test/test_gt/0/frame{number:06d}.png", 10 * number)
    (sequence,) = make(tmp_path, "test").sequences

    def truth():
        return find_truth(tmp_path, None, [sequence], tmp_path / "cache")[0]

    assert levels(truth()) == [20, 30, 40, 50]
    (tmp_path / "test/test_gt/0/frame000002.png").unlink()  # the given frame
    assert levels(truth()) == [2, 30, 40, 50]
    (tmp_path / "test/test_gt/0/frame000004.png").write_bytes(b"")
    with pytest.raises(InputError, match="frame000004.png: not a readable image .*1 such"):
        truth()
    (tmp_path / "test/test_gt/0/frame000004.png").unlink()
    with pytest.raises(InputError, match="1 poses have none .number 4"):
        truth()

# faults of names and of images


def spoil(root):
    """Frames 0..39; 4 and 5 without a pose, 12 without a frame, one image without a number, one number twice."""
    write_numbered(root, "train", range(40))
    for name in ("train_label/frame000004.png", "train_label/frame000005.png", "train_img/frame000012.png"):
        (root / "train" / name).unlink()
    write_picture(root / "train/train_img/cover.png", 0)
    write_picture(root / "train/train_img/frame000020 copy.png", 0)


def test_all_faults_of_names_are_one_line_that_names_the_flag(tmp_path, capsys, decoded):
    spoil(tmp_path)
    with pytest.raises(InputError) as caught:
        make(tmp_path)
    for words in ("train_img/frame000004.png, frame000005.png: has no pose image", "frame000012.png: has no frame",
                  "cover.png: a file name without a number", "frame000020 copy.png: has the same number as another",
                  "--skip_bad"):
        assert words in str(caught.value)
    assert not decoded, "names are checked before anything is decoded"
    data = make(tmp_path, skip_bad=True)
    assert data.clips == [(0, 4), (4, 10), (10, 37)], "0…3, 6…11, 13…39"
    assert levels(data.frames) == [i for i in range(40) if i not in (4, 5, 12)]
    assert torch.equal(data.poses, 255 - data.frames)
    assert "--skip_bad leaves out 5: " in capsys.readouterr().out


BROKEN = "train_img/frame000003.png", "train_img/frame000009.png", "train_label/frame000011.png"


def test_broken_images_are_named_together_and_the_others_decoded_once(tmp_path, decoded):
    write_numbered(tmp_path, "train", range(20))
    for name in BROKEN:
        (tmp_path / "train" / name).write_bytes(b"version https://git-lfs")
    with pytest.raises(InputError) as caught:
        make(tmp_path).decode()
    for words in ("img/frame000003.png, frame000009.png: not a readable image", "label/frame000011.png", "--skip"):
        assert words in str(caught.value)
    assert len(decoded) == 40
    decoded.clear()
    data = make(tmp_path, skip_bad=True)
    data.check_share(0.4, "--fast_partial")
    assert data.clips == [(0, 3), (3, 8), (8, 9), (9, 17)] and len(data) == 3
    assert levels(data.frames) == [i for i in range(20) if i not in (3, 9, 11)]
    assert torch.equal(data.poses, 255 - data.frames)
    assert len(decoded) == 3, "only what could not be read is tried again"
    with pytest.raises(InputError, match="has 3 frames .--fast_partial 0.2"):
        data.check_share(0.2, "--fast_partial")
    decoded.clear()
    write_numbered(tmp_path, "train", (3, 9, 11))  # mended
    assert levels(make(tmp_path).frames) == [*range(20)]
    assert set(decoded) == {"frame000003.png", "frame000009.png", "frame000011.png"}


def test_test_sequences_with_broken_poses_keep_their_length(tmp_path):
    write_test(tmp_path, "0", [0], range(7))
    write_test(tmp_path, "1", [0], range(5))
    for number in range(7):
        Image.fromarray(np.uint8([[number, 255] * 4] * 4)).save(tmp_path / f"test/test_label/0/frame00000{number}.png")
    for path in ("test_label/0/frame000002.png", "test_img/1/frame000000.png"):
        (tmp_path / "test" / path).write_bytes(b"")
    with pytest.raises(InputError, match="frame000000.png.*frame000002.png.*--skip_bad"):
        _ = make(tmp_path, "test").sequences
    (sequence,) = make(tmp_path, "test", skip_bad=True).sequences
    assert sequence.name == "0" and levels(sequence.poses) == [0, 1, 1, 3, 4, 5, 6]


@pytest.mark.parametrize("make_it, words", [
    (lambda root: (root / "train/train_label").rename(root / "labels"), "train_label: cannot be listed"),
    (lambda root: [path.rename(path.with_suffix(".tif")) for path in (root / "train/train_img").iterdir()],
     "train_img: no images in it"),
    (lambda root: [path.rename(path.with_name(f"1{path.name[5:]}")) for path in (root / "train/train_img").iterdir()],
     "frame000002.png, …: 18 times has no frame"),
], ids=["no poses", "no images", "other numbers"])
def test_faults_of_folders_are_one_line(root, make_it, words):
    make_it(root)
    with pytest.raises(InputError, match=f"{words}.*expected"):
        make(root)


def test_faults_of_both_modes_are_one_line(root):
    for mode in ("train", "val"):
        (root / mode / f"{mode}_label/frame000003.png").unlink()
    with pytest.raises(InputError, match="train_img/frame000003.png.*val_img/frame000003.png"):
        collect_errors(lambda: make(root), lambda: make(root, "val"))


def test_every_share_is_checked_before_anything_is_decoded(root, decoded):
    with pytest.raises(InputError, match="--train_vi_len 16"):
        make(root, train_vi_len=16)
    with pytest.raises(InputError, match="the longest clip has 4 frames .--fast_partial 0.2.*--train_vi_len 8"):
        make(root, train_vi_len=8).check_share(0.2, "--fast_partial")
    write_numbered(root / "single", "val", [1])
    with pytest.raises(InputError, match="no two frames in a row"):
        make(root / "single", "val")
    (root / "test/test_label").mkdir(parents=True)
    with pytest.raises(InputError, match="no test sequence"):
        make(root, "test")
    assert not decoded


# images that show nothing, and the line about what is used


def write_drawn(root, mode, numbers, blank=()):
    """Frames and poses with a bright column at the place of their number, except for blank ones."""
    write_numbered(root, mode, blank)
    for kind in ("img", "label"):
        for number in set(numbers) - set(blank):
            write_picture(root / mode / f"{mode}_{kind}" / f"frame{number:06d}.png", 0)
            pixels = np.zeros((4, 8), np.uint8)
            pixels[:, number % 8] = 99
            Image.fromarray(pixels).save(root / mode / f"{mode}_{kind}" / f"frame{number:06d}.png")


def test_blank_poses_are_replaced_within_their_clip_and_counted(tmp_path, capsys):
    """Frames 0 … 29 and, after a cut, 40 … 49; the poses of 2, 3 and 40 are blank."""
    write_drawn(tmp_path, "train", [*range(30), *range(40, 50)], blank=(2, 3, 40))
    for _ in range(2):  # the cache is unchanged
        data = make(tmp_path)
        poses = data.poses
        assert torch.equal(poses[2], poses[1]) and torch.equal(poses[3], poses[1]) and levels(poses[30:31]) == [215]
    assert not capsys.readouterr().err, "three: no warning"
    write_drawn(tmp_path, "val", range(40), blank=range(20, 30))
    make(tmp_path, "val").decode()
    assert "val_label: 10 of 40 images (25%) show one colour only" in capsys.readouterr().err


def test_one_line_says_what_is_used(tmp_path):
    write_drawn(tmp_path, "train", [i for i in range(60) if i % 10 < 7 and not 20 <= i < 40] + [30, 32])
    assert make(tmp_path).describe() == (
        "train: 30 frames, clips without a cut: 6; 28 frames used (93%), clips of at least 4 within the leading 100%")
    assert "used (47%), clips of at least 4 within the leading 50%" in make(tmp_path, partial=0.5).describe()
    write_drawn(tmp_path, "val", range(9))
    assert make(tmp_path, "val", val_vi_len=4).describe().endswith("8 frames used (89%), sequences: 2")


# the cache


def test_the_cache_is_used_and_follows_every_change(root, decoded):
    before = make(root).frames
    copy = before.clone()
    decoded.clear()
    path = root / "train/train_img/frame000003.png"
    assert torch.equal(make(root).frames, copy) and not decoded
    for value in (200, 77):  # a BMP, so of equal size, with the time of the file that it replaces
        status = path.stat()
        Image.new("RGB", (8, 4), (value,) * 3).save(path.with_name("new.bmp"))
        os.utime(path.with_name("new.bmp"), ns=(status.st_atime_ns, status.st_mtime_ns))
        os.replace(path.with_name("new.bmp"), path)
        decoded.clear()
        assert levels(make(root).frames[3:4]) == [value] and decoded == [path.name]
    write_numbered(root, "train", [10])
    assert len(make(root).frames) == 19 and len(decoded) == 3
    assert torch.equal(before, copy), "who has mapped the old array keeps it"
    assert len(list((root / "cache").glob("*.npy"))) == 2, "one for each folder"


def test_a_damaged_cache_is_made_anew(root):
    before = make(root).frames.clone()
    for file in (root / "cache").glob("*.npy"):
        file.write_bytes(file.read_bytes()[:100])
        file.with_suffix(".0.part").write_bytes(b"of a process that was killed")
    assert torch.equal(make(root).frames, before)
    assert not list((root / "cache").glob("*.part"))


def test_a_closed_home_has_its_cache_elsewhere(root, monkeypatch):
    (root / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(root))
    for home, folder in ((root / "file/cache", root / "pose2video"), (root / "new", root / "new/pose2video")):
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
        assert default_cache_dir() == folder
    with pytest.raises(InputError, match="cannot write the image cache.*--cache_dir"):
        make(root, cache_dir=root / "file" / "cache").decode()


def test_no_locks_and_no_reserving_of_space(root, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(modules.files.FileLock, "acquire", fail)
    monkeypatch.setattr(os, "posix_fallocate", fail, raising=False)
    assert len(make(root).frames) == 18
    assert "no locks on this drive" in capsys.readouterr().err
    monkeypatch.delattr(os, "posix_fallocate")
    assert len(make(root, cache_dir=root / "other").frames) == 18
