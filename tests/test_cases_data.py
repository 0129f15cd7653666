"""What people have on their disks: data sets with faults, other numberings, other pictures, other folders."""

import os
import struct
import zlib

import numpy as np
import pytest
import torch
from conftest import check_error, run_inside, write_numbered, write_picture
from PIL import Image

import modules.data.image_cache as image_cache
import modules.files
from dataloader import Dataset_Dance
from modules.data.image_cache import cached_images, default_cache_dir
from modules.data.layout import find_root
from modules.data.pairing import find_clips
from modules.data.reading import read_image
from modules.data.truth import find_truth
from modules.runtime import InputError, collect_errors


def make(root, mode="train", **flags):
    flags = {"frame_H": 4, "frame_W": 8, "train_vi_len": 4, "cache_dir": root / "cache", "workers": 2} | flags
    return Dataset_Dance(root, mode, **flags)


def levels(pictures):
    return pictures[:, 0, 0, 0].tolist()


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded from here on."""
    names, original = [], image_cache.read_image

    def read(path, *arguments):
        names.append(path.name)
        return original(path, *arguments)

    monkeypatch.setattr(image_cache, "read_image", read)
    return names


# F: the faults of a data set


def spoil(root):
    """Frames 0..39; 4 and 5 without a pose, 12 without a frame, one picture without a number, one number twice."""
    write_numbered(root, "train", range(40))
    for name in ("train_label/frame000004.png", "train_label/frame000005.png", "train_img/frame000012.png"):
        (root / "train" / name).unlink()
    write_picture(root / "train/train_img/cover.png", 0)
    write_picture(root / "train/train_img/frame000020 copy.png", 0)


def test_all_faults_of_names_are_one_line_that_names_the_flag(tmp_path):
    spoil(tmp_path)
    with pytest.raises(InputError) as caught:
        make(tmp_path)
    for words in ("2 times has no pose picture: frame000004.png, frame000005.png", "frame000012.png: has no frame",
                  "cover.png: a file name without a number", "frame000020 copy.png: has the same number", "--skip_bad"):
        assert words in str(caught.value)


def test_skip_bad_leaves_them_out_as_cuts(tmp_path, capsys):
    spoil(tmp_path)
    data = make(tmp_path, skip_bad=True)
    assert data.clips == [(0, 4), (4, 10), (10, 37)], "0…3, 6…11, 13…39"
    assert levels(data.frames) == [i for i in range(40) if i not in (4, 5, 12)]
    assert torch.equal(data.poses, 255 - data.frames)
    assert "--skip_bad leaves out 5: " in capsys.readouterr().out


def break_pictures(root, *names):
    for name in names:
        (root / "train" / name).write_bytes(b"version https://git-lfs")


BROKEN = "train_img/frame000003.png", "train_img/frame000009.png", "train_label/frame000011.png"


def test_broken_pictures_are_told_at_once_and_the_rest_is_decoded_once(tmp_path, decoded):
    write_numbered(tmp_path, "train", range(20))
    break_pictures(tmp_path, *BROKEN)
    with pytest.raises(InputError) as caught:
        make(tmp_path).decode()
    for words in ("2 times not a readable picture: frame000003.png", "frame000009.png", "frame000011.png", "--skip"):
        assert words in str(caught.value)
    assert len(decoded) == 40
    decoded.clear()
    write_numbered(tmp_path, "train", (3, 9, 11))  # mended
    decoded_again = {"frame000003.png", "frame000009.png", "frame000011.png"}
    data = make(tmp_path)
    assert levels(data.frames) == [*range(20)] and torch.equal(data.poses, 255 - data.frames)
    assert set(decoded) == decoded_again
    assert not list((tmp_path / "cache").glob("*.kept")), "not needed any more"


def test_skip_bad_leaves_broken_pictures_out_as_cuts(tmp_path, decoded):
    write_numbered(tmp_path, "train", range(20))
    break_pictures(tmp_path, *BROKEN)
    data = make(tmp_path, skip_bad=True)
    assert data.clips == [(0, 3), (3, 8), (8, 9), (9, 17)] and len(data) == 3
    assert levels(data.frames) == [i for i in range(20) if i not in (3, 9, 11)]
    assert torch.equal(data.poses, 255 - data.frames)
    decoded.clear()
    assert torch.equal(make(tmp_path, skip_bad=True).frames, data.frames)
    assert len(decoded) == 3, "only what could not be read is tried again"


def test_interrupted_decoding_goes_on(tmp_path, monkeypatch, decoded):
    write_numbered(tmp_path, "train", range(30))
    read = image_cache.read_image

    def interrupted(path, *arguments):
        if path.name == "frame000020.png":
            raise KeyboardInterrupt
        return read(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(image_cache, "read_image", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path, workers=1).decode()
    decoded.clear()
    assert levels(make(tmp_path).frames) == [*range(30)]
    assert decoded.count("frame000000.png") == 1, "the pose alone; the frame was kept"


def test_test_sequences_with_broken_poses_keep_their_length(tmp_path):
    write_test(tmp_path, "0", [0], range(5))
    write_test(tmp_path, "1", [0], range(5))
    for path in ("test_label/0/frame000002.png", "test_img/1/frame000000.png"):
        (tmp_path / "test" / path).write_bytes(b"")
    with pytest.raises(InputError, match="frame000000.png.*frame000002.png.*--skip_bad"):
        _ = make(tmp_path, "test").sequences
    (sequence,) = make(tmp_path, "test", skip_bad=True).sequences
    assert sequence.name == "0" and levels(sequence.poses) == [0, 1, 1, 3, 4]


@pytest.mark.parametrize("ending", ["BMP", "webp", "ppm", "JPG"])
def test_pictures_one_level_down_and_of_other_kinds_are_found(tmp_path, ending):
    for kind in ("img", "label"):
        folder = tmp_path / f"train/train_{kind}" / f"my_{kind}"
        folder.mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (8, 4), (9 * number,) * 3).save(folder / f"{number}.{ending}", lossless=True, quality=100)
    assert levels(make(tmp_path).frames) == [0, 9, 18, 27, 36]


def test_folders_one_level_down_are_clips(tmp_path):
    for name, length in (("walk2", 5), ("walk10", 6)):
        for kind in ("img", "label"):
            for number in range(length):
                write_picture(tmp_path / f"train/train_{kind}/{name}/{number}.png", number)
    data = make(tmp_path)
    assert data.clips == [(0, 5), (5, 11)] and levels(data.poses) == [*range(5), *range(6)]


def test_no_pictures_says_what_is_there(tmp_path):
    write_numbered(tmp_path, "train", range(5))
    for path in (tmp_path / "train/train_img").iterdir():
        path.rename(path.with_suffix(".tif"))
    with pytest.raises(InputError, match=r"no PNG pictures in it \(but .tif\)"):
        make(tmp_path)


def test_faults_of_both_modes_are_one_line(tmp_path):
    write_numbered(tmp_path, "train", range(8))
    write_numbered(tmp_path, "val", range(8))
    for mode in ("train", "val"):
        (tmp_path / mode / f"{mode}_label/frame000003.png").unlink()
    with pytest.raises(InputError, match="train_img/frame000003.png.*val_img/frame000003.png"):
        collect_errors(lambda: make(tmp_path), lambda: make(tmp_path, "val"))


# G: test data paired by number


def write_test(root, name, firsts, poses):
    """Grey levels are the numbers."""
    for kind, numbers in (("img", firsts), ("label", poses)):
        for number in numbers:
            write_picture(root / f"test/test_{kind}" / name / f"frame{number:06d}.png", number)


@pytest.mark.parametrize("firsts, poses, first, expected, words", [
    ([0], range(1, 5), 0, [1, 1, 2, 3, 4], "no pose of the first frame, 0"),
    ([3], range(8), 3, [3, 4, 5, 6, 7], "3 poses before the first frame"),
    ([7, 5, 6], range(5, 9), 5, [5, 6, 7, 8], "3 pictures; the first frame is frame000005.png"),
    ([0], range(5, 30, 5), 0, [5, 5, 10, 15, 20, 25], "no pose of the first frame"),
    ([4], [4, 5, 8, 9], 4, [4, 5, 8, 9], "jump 1 times"),
])
def test_the_first_frames_number_finds_its_pose(tmp_path, capsys, firsts, poses, first, expected, words):
    write_test(tmp_path, "0", firsts, poses)
    (sequence,) = make(tmp_path, "test").sequences
    assert levels(sequence.frames) == [first] and levels(sequence.poses) == expected
    assert sequence.numbers == (first, *expected[1:]) and words in capsys.readouterr().out


def test_a_first_frame_that_belongs_to_no_pose_is_refused(tmp_path):
    write_test(tmp_path, "0", [0], range(50, 55))
    with pytest.raises(InputError, match="poses 50 to 54, but the first frame is .*test_img/0/frame000000.png"):
        make(tmp_path, "test")


def test_every_test_folder_is_taken_or_named(tmp_path, capsys):
    for name in ("walk10", "walk2", "10", "9"):
        write_test(tmp_path, name, [0], range(3))
    write_test(tmp_path, "alone", [0], [])
    (tmp_path / "test/test_label/notes").mkdir()
    write_test(tmp_path, "3", [], range(7, 10))
    write_picture(tmp_path / "test/test_img/3.png", 99)  # its number is the sequence's
    data = make(tmp_path, "test")
    assert [sequence.name for sequence in data.sequences] == ["3", "9", "10", "walk2", "walk10"]
    assert levels(data.sequences[0].poses) == [7, 8, 9] and levels(data.sequences[0].frames) == [99]
    out = capsys.readouterr().out
    assert "left out: alone" in out and "notes: no pictures in it, left out" in out
    assert data.describe() == "test: 5 sequences of 3, 3, 3, 3, 3 frames"


def test_test_folders_without_a_first_frame_are_told_at_once(tmp_path):
    for name, firsts in (("0", [0]), ("1", []), ("2", [])):
        write_test(tmp_path, name, firsts, range(3))
    with pytest.raises(InputError, match="2 times no first frame: 1 .*2 .*--skip_bad"):
        make(tmp_path, "test")
    assert [sequence.name for sequence in make(tmp_path, "test", skip_bad=True).sequences] == ["0"]


def test_true_frames_pair_by_number(tmp_path, capsys):
    write_test(tmp_path, "0", [2], range(6))
    for number in range(1, 8):
        write_picture(tmp_path / f"test/test_gt/0/frame{number:06d}.png", 10 * number)
    (sequence,) = make(tmp_path, "test").sequences
    (truth,) = find_truth(tmp_path, None, [sequence])
    assert levels(truth) == [20, 30, 40, 50]
    (tmp_path / "test/test_gt/0/frame000002.png").unlink()  # the given one
    (truth,) = find_truth(tmp_path, None, [sequence])
    assert levels(truth) == [2, 30, 40, 50]
    (tmp_path / "test/test_gt/0/frame000004.png").unlink()
    with pytest.raises(InputError, match="1 poses have none .number 4"):
        find_truth(tmp_path, None, [sequence])


def test_frames_and_poses_pair_by_number_whatever_their_names(tmp_path):
    for number in range(5):
        write_picture(tmp_path / f"train/train_img/frame{number:06d}.png", number)
        write_picture(tmp_path / f"train/train_label/pose_{number}.png", number)
    assert torch.equal(make(tmp_path).poses, make(tmp_path).frames)


# H: pictures of any mode


def png16(pixels):
    """The bytes of a 16-bit PNG of (h, w, channels)."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def skeleton(background, line):
    """Two vertical lines on a background, (8, 8, 4): RGBA."""
    pixels = np.full((8, 8, 4), background, dtype=np.uint8)
    pixels[:, 2:4] = pixels[:, 6:] = line
    return Image.fromarray(pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("top", [255, 1023, 4095, 65535])
def test_16_bits_lose_nothing_that_8_can_hold(tmp_path, channels, top):
    values = np.linspace(0, top, 32).round().astype(int).reshape(4, 8, 1)
    pixels = values.repeat(channels, 2)
    pixels[..., 3 if channels == 4 else 1:] = 65535 if channels in (2, 4) else values
    (tmp_path / "1.png").write_bytes(png16(pixels))
    expected = np.rint(values * 255 / top).repeat(3, 2).transpose(2, 0, 1)
    assert np.array_equal(read_image(tmp_path / "1.png", 4, 8), expected)


@pytest.mark.parametrize("picture, background, line", [
    (skeleton((0, 0, 0, 0), (0, 0, 0, 255)), 255, 0),  # black on transparent black
    (skeleton((255, 255, 255, 0), (255, 255, 255, 255)), 0, 255),  # white on transparent white
    (skeleton((0, 0, 0, 0), (200, 0, 0, 255)), 255, 200),
    (skeleton((0, 0, 0, 0), (200, 0, 0, 255)).quantize(4), 255, 200),
    (skeleton((0, 0, 0, 0), (200, 200, 200, 255)).convert("LA"), 255, 200),
    (skeleton((0, 0, 0, 0), (200, 0, 0, 0)), 0, 200),  # an alpha channel that nobody filled in
    (skeleton((0, 0, 0, 255), (255, 255, 255, 255)).convert("1"), 0, 255),
])
def test_transparency_hides_nothing(tmp_path, picture, background, line):
    picture.save(tmp_path / "1.png")
    red = read_image(tmp_path / "1.png", 8, 8)[0, 0]
    assert (red[0], red[2]) == (background, line)


def test_other_kinds_of_pictures(tmp_path):
    skeleton((0, 0, 0, 255), (200, 0, 0, 255)).convert("RGB").convert("CMYK").save(tmp_path / "1.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "1.jpg", 8, 8)[:, 0, 6].astype(int) - (200, 0, 0)).max() < 9
    numbers = Image.fromarray(np.arange(32, dtype=np.uint8).reshape(4, 8))
    numbers.putpalette([7, 7, 7] * 256)  # a map of body parts whose palette nobody filled in
    numbers.save(tmp_path / "4.png")
    assert np.array_equal(read_image(tmp_path / "4.png", 4, 8)[0].ravel(), range(32))
    fractions = np.linspace(0, 1, 32, dtype="<f4").reshape(4, 8)
    (tmp_path / "2.ppm").write_bytes(b"Pf\n8 4\n-1.0\n" + fractions[::-1].tobytes())
    assert np.array_equal(read_image(tmp_path / "2.ppm", 4, 8)[0], np.rint(fractions * 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # a telephone held upright
    Image.fromarray(np.uint8([[0, 0], [255, 255]])).resize((8, 8)).save(tmp_path / "3.jpg", exif=exif, quality=100)
    turned = read_image(tmp_path / "3.jpg", 8, 8)[0]
    assert turned[:, 0].min() > 200 and turned[:, -1].max() < 50


def test_a_list_is_read_in_one_way(tmp_path, capsys):
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for path, value in zip(files, (0, 200, 40_000, 65_535), strict=True):
        path.write_bytes(png16(np.full((4, 8, 1), value)))
    pictures = cached_images(files, 4, 8, tmp_path / "cache", 1, "x")
    assert levels(pictures) == [0, 1, 156, 255], "200 of 65,535 is dark, though alone it is 200 of 255"
    assert "0..65,535 read as 0..255" in capsys.readouterr().out
    white, blank, grey = (255, 255, 255, 255), (255, 255, 255, 0), (99, 99, 99, 255)
    for path, line in zip(files, (white, blank, white, grey), strict=True):
        skeleton((255, 255, 255, 0), line).save(path)
    pictures = cached_images(files, 8, 8, tmp_path / "cache", 1, "x")
    assert pictures[:, 0, 0, 0].tolist() == [0, 0, 0, 0] and pictures[:, 0, 0, 2].tolist() == [255, 0, 255, 99]


def write_drawn(root, mode, numbers, blank=()):
    """Frames and poses with a bright column, except for blank poses."""
    write_numbered(root, mode, blank)
    for kind in ("img", "label"):
        for number in set(numbers) - set(blank):
            path = root / mode / f"{mode}_{kind}" / f"frame{number:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.uint8([[0, 99] * 4] * 4)).save(path)


def test_blank_poses_are_a_warning_with_their_share(tmp_path, capsys):
    write_drawn(tmp_path, "train", range(40), blank=range(20, 30))
    data = make(tmp_path)
    data.decode()
    err = capsys.readouterr().err
    assert "train_label: 10 of 40 pictures (25%) show one colour only" in err
    assert "25.0% of the poses are constant" in data.describe()
    write_drawn(tmp_path, "val", range(40), blank=[7])
    make(tmp_path, "val").decode()
    assert not capsys.readouterr().err, "one is no reason to warn"


# I, J, K: what is used, and when it is checked


def test_one_line_says_what_is_used(tmp_path):
    write_drawn(tmp_path, "train", [i for i in range(60) if i % 10 < 7 and not 20 <= i < 40] + [30, 32])
    data = make(tmp_path, partial=0.5)
    assert make(tmp_path).describe() == "train: 30 frames in 6 clips, 28 (93%) used: in clips of at least 4"
    assert "used: in clips of at least 4 within the leading 50%" in data.describe()
    write_drawn(tmp_path, "val", range(9))
    assert make(tmp_path, "val", val_vi_len=4).describe() == "val: 9 frames in 1 clip, 8 (89%) used: in 2 sequences"


def test_the_step_is_found_for_every_stretch():
    assert find_clips([*range(0, 101, 2), *range(101, 201)]) == [(0, 50), (50, 151)]
    assert find_clips([*range(0, 100), *range(500, 530, 3), *range(900, 1000, 5)]) == [(0, 100), (100, 110), (110, 130)]
    assert find_clips([0, 1, 2, 4, 6, 7, 8]) == [(0, 3), (3, 4), (4, 7)], "two missing frames: no clip at double speed"


def test_every_share_is_checked(tmp_path):
    write_numbered(tmp_path, "train", range(24))
    data = make(tmp_path, train_vi_len=16)
    data.check_share(0.8)
    with pytest.raises(InputError, match="the longest clip .* has 10 frames .--fast_partial 0.4.*--train_vi_len 16"):
        data.check_share(0.4, "--fast_partial")


def test_a_share_is_checked_again_without_the_broken_pictures(tmp_path):
    write_numbered(tmp_path, "train", range(24))
    break_pictures(tmp_path, "train_img/frame000003.png")
    data = make(tmp_path, skip_bad=True)
    data.check_share(0.2, "--fast_partial")
    with pytest.raises(InputError, match="--fast_partial 0.2"):
        data.decode()


@pytest.mark.parametrize("mode", ["train", "val", "test"])
def test_names_are_checked_before_anything_is_decoded(tmp_path, decoded, mode):
    write_numbered(tmp_path, "train", range(8))
    write_numbered(tmp_path, "val", range(8))
    write_test(tmp_path, "0", [0], range(3))
    make(tmp_path, mode)
    assert not decoded
    if mode != "test":
        (tmp_path / mode / f"{mode}_label/frame000007.png").unlink()
        with pytest.raises(InputError, match="has no pose picture"):
            make(tmp_path, mode)
        assert not decoded


# M, N, O: the machine


def test_a_missing_or_closed_home_has_its_pictures_elsewhere(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
        assert default_cache_dir().parent == tmp_path
    assert "--cache_dir" in capsys.readouterr().err
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    assert default_cache_dir().parent == tmp_path
    write_numbered(tmp_path, "train", range(8))
    assert levels(make(tmp_path, cache_dir=None).frames) == [*range(8)]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    assert default_cache_dir() == tmp_path / "new" / "pose2video"


def test_a_cache_that_cannot_be_written_names_its_flag(tmp_path):
    write_numbered(tmp_path, "train", range(8))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--cache_dir"):
        make(tmp_path, cache_dir=tmp_path / "file" / "cache").decode()


def test_no_locks_and_no_reserving_of_space(tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(modules.files.FileLock, "acquire", fail)
    monkeypatch.setattr(os, "posix_fallocate", fail, raising=False)
    write_numbered(tmp_path, "train", range(8))
    assert levels(make(tmp_path).frames) == [*range(8)]
    assert "no locks on this drive" in capsys.readouterr().err
    monkeypatch.delattr(os, "posix_fallocate")
    assert levels(make(tmp_path, cache_dir=tmp_path / "other").frames) == [*range(8)]


def test_another_process_that_was_faster_on_windows(tmp_path, monkeypatch):
    """There a file that is mapped cannot be replaced: the other's is taken."""
    replace = os.replace

    def refuse(source, target):
        replace(source, target)
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr(os, "replace", refuse)
    write_numbered(tmp_path, "train", range(8))
    assert levels(make(tmp_path).frames) == [*range(8)]


@pytest.fixture
def closed(monkeypatch):
    """Folders called "closed" cannot be listed, as if they were somebody else's."""
    def closing(original):
        def ask(path="."):
            if os.path.basename(path) == "closed":
                raise PermissionError(13, "Permission denied", str(path))
            return original(path)

        return ask

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, closing(getattr(os, name)))


def test_neighbours_that_cannot_be_listed_are_passed_over(tmp_path, closed):
    write_numbered(tmp_path / "data", "train", range(5))
    (tmp_path / "closed").mkdir()
    assert find_root(tmp_path) == tmp_path / "data"
    (tmp_path / "empty" / "closed").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no train/train_img.*cannot look into .*closed"):
        find_root(tmp_path / "empty")
    with pytest.raises(InputError, match="data.zip: not a folder"):
        (tmp_path / "data.zip").touch()
        find_root(tmp_path / "data.zip")


@pytest.mark.parametrize("given, kept", [
    ("", "train/train_img"), ("train", "train/train_img"), ("train/train_img", "train/train_img"), ("", "train_img"),
    ("", "train/train/train_img"), ("", "a/b/train/train_img"),
])
def test_the_data_set_is_found_from_where_people_point(tmp_path, given, kept):
    parent = tmp_path / kept.removesuffix("train_img")
    write_numbered(tmp_path / "x", "train", range(5))
    parent.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "x/train").rename(parent) if not parent.exists() else [
        path.rename(parent / path.name) for path in (tmp_path / "x/train").iterdir()]
    assert len(make(tmp_path / given)._keys) == 5


def test_the_flag_reaches_both_programs_help():
    for script in ("Trainer.py", "Tester.py"):
        result = run_inside(script, "--help")
        assert "--skip_bad" in result.stdout


def test_a_program_ends_in_one_line(tmp_path):
    spoil(tmp_path)
    write_numbered(tmp_path, "val", range(8))
    flags = ["--frame_H", 16, "--frame_W", 32, "--cache_dir", tmp_path / "c", "--device", "cpu"]
    check_error(run_inside("Trainer.py", "--DR", tmp_path, "--save_root", tmp_path / "run", *flags), "--skip_bad")
