"""Dataset_Dance: pairing, cuts, windows, the cache, and bad data."""

import os

import numpy as np
import pytest
import torch
from conftest import write_numbered, write_picture
from PIL import Image

import modules.data.image_cache as image_cache
from dataloader import Dataset_Dance
from modules.data.pairing import find_clips
from modules.runtime import InputError


@pytest.fixture
def root(tmp_path):
    """Training frames 0..9 and 50..57 (a cut between them); grey level = number."""
    write_numbered(tmp_path, "train", [*range(10), *range(50, 58)])
    write_numbered(tmp_path, "val", range(6))
    return tmp_path


def load(root, mode="train", **flags):
    flags = {"frame_H": 4, "frame_W": 8, "train_vi_len": 4, "cache_dir": root / "cache", "workers": 2} | flags
    data = Dataset_Dance(root, mode, **flags)
    data.decode()
    return data


def test_frames_pair_with_their_poses_in_the_order_of_the_numbers(root):
    data = load(root)
    numbers = data.frames[:, 0, 0, 0]
    assert numbers.tolist() == [*range(10), *range(50, 58)]
    assert torch.equal(data.poses[:, 0, 0, 0], 255 - numbers)
    for frames, poses in (data[i] for i in range(len(data))):
        assert torch.equal(poses, 255 - frames)


def test_clips_follow_the_numbering():
    assert find_clips([*range(10), *range(50, 58)]) == [(0, 10), (10, 18)]
    assert find_clips([0, 3, 6, 9, 12, 14, 17, 20]) == [(0, 5), (5, 8)], "one constant step, whatever it is"


def test_template_windows_do_not_overlap_or_cross_the_cut(root):
    windows = load(root).windows(1.0)
    assert windows.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [10, 11, 12, 13], [14, 15, 16, 17]]


def test_partial_takes_the_leading_share(root):
    assert load(root, partial=0.5).windows(0.5).max() <= 8
    assert len(load(root, partial=0.5)) == 2


def test_nested_data_set_is_found(tmp_path):
    write_numbered(tmp_path / "LAB4_Dataset" / "LAB4_Dataset", "train", range(5))
    assert len(load(tmp_path).frames) == 5


def test_validation_is_cut_into_whole_sequences(root):
    assert [len(s.frames) for s in load(root, "val").sequences] == [6]
    assert [len(s.frames) for s in load(root, "val", val_vi_len=2).sequences] == [2, 2, 2]


def test_test_sequences_are_counted_from_the_data(tmp_path):
    for name, length in (("0", 3), ("2", 5), ("10", 2)):
        write_picture(tmp_path / "test/test_img" / name / "frame000007.png", 9)
        for i in range(length):
            write_picture(tmp_path / "test/test_label" / name / f"frame{7 + i:06d}.png", i)
    sequences = load(tmp_path, "test").sequences
    assert [s.name for s in sequences] == ["0", "2", "10"]
    assert [s.poses[:, 0, 0, 0].tolist() for s in sequences] == [[0, 1, 2], [0, 1, 2, 3, 4], [0, 1]]
    assert all(s.frames.shape == (1, 3, 4, 8) for s in sequences)


def test_pictures_are_resized_with_pils_bilinear_filter(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = np.asarray(Image.fromarray(pixels).resize((16, 8), Image.Resampling.BILINEAR))
    assert np.array_equal(image_cache.read_image(tmp_path / "a.png", 8, 16), expected.transpose(2, 0, 1))


def test_cache_is_used_and_follows_every_change(root, monkeypatch):
    before = load(root).frames.clone()
    with monkeypatch.context() as patch:
        patch.setattr(image_cache, "read_image", None)  # decoding again would fail
        assert torch.equal(load(root).frames, before)
        with pytest.raises(TypeError):
            load(root, frame_W=16)
    path = root / "train/train_img/frame000003.png"
    write_picture(path, 200)
    os.utime(path, ns=(1, 1))
    assert load(root).frames[3, 0, 0, 0] == 200


def test_a_damaged_cache_is_made_anew(root):
    before = load(root).frames.clone()
    for file in (root / "cache").glob("*.npy"):
        file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(load(root).frames, before)
    assert not list((root / "cache").glob("*.tmp"))


def remove_pose(root):
    (root / "train/train_label/frame000004.png").unlink()
    return "frame000004.png"


def remove_frame(root):
    (root / "train/train_img/frame000004.png").unlink()
    return "frame000004.png"


def truncate(root):
    path = root / "train/train_img/frame000005.png"
    path.write_bytes(path.read_bytes()[:40])
    return "frame000005.png: not a readable picture"


def no_number(root):
    (root / "train/train_img/frame000005.png").rename(root / "train/train_img/last.png")
    return "last.png: a file name without a number"


def same_number(root):
    write_picture(root / "train/train_img/other5.png", 0)
    return "same number"


def no_labels(root):
    (root / "train/train_label").rename(root / "labels")
    return "train_label: folder not found"


@pytest.mark.parametrize("damage", [remove_pose, remove_frame, truncate, no_number, same_number, no_labels])
def test_bad_data_is_named(root, damage):
    expected = damage(root)
    with pytest.raises(InputError) as caught:
        load(root)
    assert expected in str(caught.value)
    assert "expected" in str(caught.value)


def test_too_few_frames_no_root_and_no_test_sequence_are_named(root):
    with pytest.raises(InputError, match="--train_vi_len 16"):
        load(root, train_vi_len=16)
    with pytest.raises(InputError, match="nowhere: folder not found"):
        Dataset_Dance(root / "nowhere", "train")
    (root / "test/test_label").mkdir(parents=True)
    with pytest.raises(InputError, match="no test sequence"):
        load(root, "test")


def test_odd_picture_modes_are_read_as_rgb(tmp_path):
    sixteen = Image.fromarray(np.full((4, 8), 40000, dtype=np.uint16))
    for i, picture in enumerate([Image.new("L", (8, 4), 156), Image.new("RGBA", (8, 4), (156, 156, 156, 255)), sixteen,
                                 Image.new("RGB", (8, 4), (156, 156, 156)).quantize(4)]):
        picture.save(tmp_path / f"{i}.PNG")
        assert np.array_equal(image_cache.read_image(tmp_path / f"{i}.PNG", 4, 8), np.full((3, 4, 8), 156))


def test_a_pose_that_shows_nobody_is_the_one_before(tmp_path):
    """Frames 0 … 5 and, after a cut, 9 … 12; the detector saw nobody in 2, 3 and 9. Also in a test sequence."""
    for mode in ("train", "val"):
        write_numbered(tmp_path, mode, [*range(6), *range(9, 13)])
    for place in ("test_img", "test_label"):
        for number in range(5):
            write_picture(tmp_path / f"test/{place}/0/frame{number:06d}.png", number)
    for place, numbers in (("train/train_label", [*range(6), *range(9, 13)]), ("test/test_label/0", range(5))):
        for number in numbers:
            picture = np.full((4, 8, 3), 255, np.uint8)
            if number not in (2, 3, 9):
                picture[1, number % 8] = number
            Image.fromarray(picture).save(tmp_path / place / f"frame{number:06d}.png")
    options = {"frame_H": 4, "frame_W": 8, "train_vi_len": 2, "cache_dir": tmp_path / "cache"}
    for _ in range(2):  # what lies in the cache is as it was
        poses = Dataset_Dance(tmp_path, "train", **options).poses
        assert torch.equal(poses[2], poses[1]) and torch.equal(poses[3], poses[1])
        assert (poses[6] == 255).all(), "nothing is known before it in its clip"
        assert not torch.equal(poses[4], poses[1])
        poses = Dataset_Dance(tmp_path, "test", **options).sequences[0].poses
        assert torch.equal(poses[2], poses[1]) and torch.equal(poses[3], poses[1])
