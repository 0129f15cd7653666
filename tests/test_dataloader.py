"""Dataset_Dance: the layout, pairs, cuts, windows, the cache, and what is checked before anything is decoded."""

import os

import numpy as np
import pytest
import torch
from conftest import write_numbered, write_picture
from PIL import Image

import modules.data.image_cache as image_cache
from dataloader import Dataset_Dance
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
    ([0, 3, 6, 9, 12, 14, 17, 20], [(0, 5), (5, 8)]),
    ([0, 1, 2, 4, 6, 7, 8], [(0, 3), (3, 4), (4, 7)]),
    ([7], [(0, 1)]),
])
def test_clips_are_runs_of_the_most_common_step(numbers, clips):
    assert find_clips(numbers) == clips


def test_folders_one_level_down_are_clips(tmp_path):
    for name, length in (("walk2", 5), ("walk10", 6)):
        for kind in ("img", "label"):
            for number in range(length):
                write_picture(tmp_path / f"train/train_{kind}/{name}/{number}.png", number)
    data = make(tmp_path)
    assert data.clips == [(0, 5), (5, 11)] and levels(data.poses) == [*range(5), *range(6)]


@pytest.mark.parametrize("place", ["", "train", "train/train", "LAB4/LAB4/train"])
def test_the_data_set_is_found_where_archives_unpack_it(tmp_path, place):
    write_numbered(tmp_path / "x", "train", range(5))
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for kind in ("img", "label"):
        (tmp_path / f"x/train/train_{kind}").rename(tmp_path / place / f"train_{kind}")
    assert len(make(tmp_path).frames) == 5


def test_validation_is_cut_into_whole_sequences_and_one_line_says_what_is_used(root):
    assert [len(s.frames) for s in make(root, "val").sequences] == [6]
    data = make(root, "val", val_vi_len=2)
    assert [s.numbers for s in data.sequences] == [(0, 1), (2, 3), (4, 5)]
    assert levels(data.sequences[1].frames) == [2, 3]
    assert data.describe().endswith("6 frames used (100%), sequences: 3")
    assert make(root, partial=0.5).describe() == (
        "train: 18 frames, clips without a cut: 2; 9 frames used (50%), clips of at least 4 within the leading 50%")


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
    assert [sequence.name for sequence in make(tmp_path, "test").sequences] == ["9", "10", "walk2", "walk10"]
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


# faults of folders, names and images


def rename_all(folder, rename):
    for path in folder.iterdir():
        path.rename(folder / rename(path.name))


@pytest.mark.parametrize("change, load, words", [
    (lambda root: (root / "train/train_label").rename(root / "labels"), make, "train_label: cannot be listed"),
    (lambda root: rename_all(root / "train/train_img", lambda name: name[:-3] + "tif"), make, "train_img: no images"),
    (lambda root: rename_all(root / "train/train_img", lambda name: f"1{name[5:]}"), make,
     "frame000002.png, …: 18 times has no frame.*expected"),
    (lambda root: [(root / mode / f"{mode}_img/frame000003.png").unlink() for mode in ("train", "val")],
     lambda root: collect_errors(lambda: make(root), lambda: make(root, "val")),
     "train_label/frame000003.png.*val_label/frame000003.png"),
    (None, lambda root: make(root, train_vi_len=16), "--train_vi_len 16"),
    (None, lambda root: make(root, train_vi_len=4).check_share(0.2, "--fast_partial", before=1),
     "the longest clip has 4 frames .--fast_partial 0.2.*--train_vi_len 4 and 1 before"),
    (lambda root: write_numbered(root / "single", "val", [1]), lambda root: make(root / "single", "val"),
     "no two frames in a row"),
    (lambda root: (root / "test/test_label").mkdir(parents=True), lambda root: make(root, "test"), "no test sequence"),
    (None, lambda root: find_root(root / "train/train_img"), "holds no train/train_img.*--DR"),
    (None, lambda root: find_root(root / "x"), "x: folder not found.*--DR"),
    (None, lambda root: make(root, cache_dir=root / "val/val_img/frame000000.png/c").decode(),
     "cannot write the image cache.*--cache_dir"),
], ids=["no poses", "no images", "other numbers", "both modes", "short clips", "short share", "one frame", "no test",
        "not a data set", "no folder", "cache in a file"])
def test_faults_of_folders_are_one_line_before_anything_is_decoded(root, decoded, change, load, words):
    if change:
        change(root)
    with pytest.raises(InputError, match=words):
        load(root)
    assert not decoded


def test_all_faults_of_names_are_one_line_that_names_the_flag(tmp_path, capsys, decoded):
    """Frames 0..39; 4 and 5 without a pose, 12 without a frame, one image without a number, one number twice, one
    hidden file."""
    write_numbered(tmp_path, "train", range(40))
    for name in ("train_label/frame000004.png", "train_label/frame000005.png", "train_img/frame000012.png"):
        (tmp_path / "train" / name).unlink()
    for name in ("cover.png", "frame000020 copy.png", "._frame000004.png"):
        write_picture(tmp_path / "train/train_img" / name, 0)
    with pytest.raises(InputError) as caught:
        make(tmp_path)
    for words in ("train_img/frame000004.png, frame000005.png: has no pose image", "frame000012.png: has no frame",
                  "cover.png: a file name without a number", "frame000020 copy.png: has the same number as another",
                  "--skip_bad"):
        assert words in str(caught.value)
    assert not decoded
    data = make(tmp_path, skip_bad=True)
    assert data.clips == [(0, 4), (4, 10), (10, 37)], "0…3, 6…11, 13…39"
    assert levels(data.frames) == [i for i in range(40) if i not in (4, 5, 12)]
    assert torch.equal(data.poses, 255 - data.frames)
    assert "--skip_bad leaves out 5: " in capsys.readouterr().out


def test_broken_images_are_named_together_and_the_others_decoded_once(tmp_path, decoded):
    write_numbered(tmp_path, "train", range(20))
    for name in ("img/frame000003.png", "img/frame000009.png", "label/frame000011.png"):
        (tmp_path / f"train/train_{name}").write_bytes(b"version https://git-lfs")
    words = "img/frame000003.png, frame000009.png: not a readable image.*label/frame000011.png.*--skip_bad"
    with pytest.raises(InputError, match=words):
        make(tmp_path).decode()
    assert len(decoded) == 40
    decoded.clear()
    data = make(tmp_path, skip_bad=True)
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
    for name in "01":
        write_test(tmp_path, name, [0], range(7))
    for number in range(7):
        Image.fromarray(np.uint8([[number, 255] * 4] * 4)).save(tmp_path / f"test/test_label/0/frame00000{number}.png")
    for path in ("test_label/0/frame000002.png", "test_img/1/frame000000.png"):
        (tmp_path / "test" / path).write_bytes(b"")
    with pytest.raises(InputError, match="frame000000.png.*frame000002.png.*--skip_bad"):
        _ = make(tmp_path, "test").sequences
    (sequence,) = make(tmp_path, "test", skip_bad=True).sequences
    assert sequence.name == "0" and levels(sequence.poses) == [0, 1, 1, 3, 4, 5, 6]


def test_blank_poses_are_replaced_within_their_clip_and_counted(tmp_path, capsys):
    """Frames 0 … 29 and, after a cut, 40 … 49; the poses of 2, 3 and 40 are blank."""
    for mode, numbers, blank in (("train", [*range(30), *range(40, 50)], (2, 3, 40)),
                                 ("val", range(40), range(20, 30))):
        write_numbered(tmp_path, mode, numbers)
        for number in set(numbers).difference(blank):
            pixels = np.full((4, 8), number, np.uint8)
            pixels[:, 7] = 99
            for kind in ("img", "label"):
                Image.fromarray(pixels).save(tmp_path / mode / f"{mode}_{kind}" / f"frame{number:06d}.png")
    for _ in range(2):  # the cache is unchanged
        poses = make(tmp_path).poses
        assert levels(poses) == [0, 1, 1, 1, *range(4, 30), 215, *range(41, 50)]
    assert not capsys.readouterr().err, "three: no warning"
    make(tmp_path, "val").decode()
    assert "val_label: 10 of 40 images (25%) show one colour only" in capsys.readouterr().err


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
