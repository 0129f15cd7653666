"""The images and videos of predicted sequences, read back from the files."""

from time import sleep

import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from conftest import check_error, noise_frames, run_inside
from PIL import Image

from modules.data.sequence import Sequence
from modules.runtime import InputError
from modules.show.panels import BORDER, ERROR_FULL, GREEN, LINE, PAPER, RED, SCALE, Panels, PredictedSequence, error_map
from modules.show.sequence import draw_validation, score_validation, sequence_files, to_images, write_files
from modules.show.video import quantize, save_gif

H, W, T = 8, 16, 7
CELL_H, CELL_W = H * SCALE + 2 * BORDER, W * SCALE + 2 * BORDER


def read_video(path):
    """(T, height, width, 3) uint8"""
    return np.stack([image[..., :3] for image in imageio.get_reader(path)])


def levels(*values):
    """Frames of one grey level each, of 1: (T, H, W, 3) uint8."""
    return np.tile(np.rint(np.array(values) * 255).astype(np.uint8)[:, None, None, None], (1, H, W, 3))


def make_sequence(truth, prediction):
    """White poses with one red line. truth: None if it is not known."""
    poses = levels(*[1.0] * len(prediction))
    poses[:, 4, :, 1:] = 0
    known = (levels(*truth), [30.0] * (len(truth) - 1)) if truth else ()
    return PredictedSequence(levels(*prediction), poses, *known)


DARK = make_sequence([0.6] + [0.5] * (T - 1), [0.6] + [0.4] * (T - 1))  # the prediction is 0.1 too dark


def check_panels(video, tolerance):
    """Known pixels of every frame of a video (T, height, width, 3): the middle and the border of three cells."""
    assert video.shape == (T, 2 * LINE + CELL_H, 4 * CELL_W, 3)
    row = video[:, LINE + BORDER + H // 2 * SCALE + SCALE // 2].astype(int)
    for t in range(T):
        truth, prediction, colors = (153, 153, (GREEN, PAPER, GREEN)) if t == 0 else (128, 102, (PAPER, PAPER, RED))
        for i, center in enumerate(((truth,) * 3, (255, 0, 0), (prediction,) * 3)):
            assert np.abs(row[t, i * CELL_W + CELL_W // 2] - center).max() <= tolerance, (t, i)
            assert np.abs(row[t, i * CELL_W + BORDER // 2] - colors[i]).max() <= tolerance, (t, i)
    error = row[:, 3 * CELL_W + CELL_W // 2].max(axis=1)
    assert error[0] <= tolerance + 4 and error[1:].min() > 100, "0.1 of 0.25: well up the heat map"
    assert (video[:, :LINE].min(axis=(1, 2, 3)) < 100).all() and (video[:, -LINE:].min(axis=(1, 2, 3)) < 100).all()


def write(predicted, stem, gifs=None, kind="all"):
    write_files(sequence_files(predicted, stem, gifs or {}, kind))


def test_panels_show_every_frame(tmp_path):
    panels = Panels(DARK)
    check_panels(np.stack(list(panels)), 0)
    assert len({panels[t][-LINE:].tobytes() for t in range(T)}) == T, "captions differ"
    write(DARK, tmp_path / "val0.1")
    assert {path.name for path in tmp_path.iterdir()} == {"val0.1.png", "val0.1.mp4"}
    check_panels(read_video(tmp_path / "val0.1.mp4"), 25)  # H.264 stores colour at half the resolution


@pytest.mark.parametrize("height, width, scale", [(9, 131, 3), (7, 600, 1)])
def test_panels_have_even_sides_and_exact_pixels(height, width, scale):
    frames = np.random.default_rng(0).integers(0, 256, (3, 3, height, width, 3), dtype=np.uint8)
    panels = Panels(PredictedSequence(*frames, [30.0, 40.0]))
    assert panels[2].shape[0] % 2 == panels[2].shape[1] % 2 == 0
    for i, image in enumerate((frames[2, 2], frames[1, 2], frames[0, 2])):  # truth, pose, prediction
        cell = panels[2][LINE + BORDER :, i * panels.cell[1] + BORDER :]
        assert np.array_equal(cell[: height * scale : scale, : width * scale : scale], image)


def test_the_heat_map_is_black_without_error_and_ever_brighter():
    errors = np.linspace(0, 0.4, 41)
    colors = error_map(levels(*errors), levels(*[0.0] * 41))[:, 0, 0].astype(int)
    assert colors[0].max() <= 4 and (colors[errors >= ERROR_FULL] == (252, 255, 164)).all()
    assert (np.diff(colors[errors < ERROR_FULL] @ (0.299, 0.587, 0.114)) > 0).all()


def test_strips_hold_evenly_spaced_moments_and_need_no_truth(tmp_path):
    values, cell_h, cell_w = np.linspace(0, 1, 19).tolist(), H * 2 + 2 * BORDER, W * 2 + 2 * BORDER
    write(make_sequence(values, values), tmp_path / "a", kind="strips")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    strip = np.asarray(Image.open(tmp_path / "a.png"))
    assert strip.shape == (3 * LINE + 4 * cell_h, 10 * cell_w, 3)
    shown = strip[LINE + cell_h // 2, cell_w // 2 :: cell_w, 0]
    assert np.abs(shown / 255 - np.arange(0, 19, 2) / 18).max() < 0.003, "frames 1, 3, … 19"
    assert strip[LINE + cell_h * 7 // 2, cell_w // 2 :: cell_w].max() <= 4, "a perfect prediction: the error is black"
    write(make_sequence(None, [0.2, 0.9, 1.0]), tmp_path / "b")
    assert read_video(tmp_path / "b.mp4").shape == (3, 2 * LINE + CELL_H, 2 * CELL_W, 3), "pose and prediction"
    assert Image.open(tmp_path / "b.png").width == 3 * cell_w, "three moments, none twice"


BROKEN = {
    "ends with an error": "echo 'No space left on device' >&2; exit 1",
    "leaves half of the video": """case "$*" in
        *libx264*) exec REAL "${@:1:$#-1}" -frames:v 3 "${@: -1}";;
        *) exec REAL "$@";;
    esac""",
}


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN)
def test_a_video_that_cannot_be_played_is_one_line(script, tmp_path, monkeypatch, capfd):
    fake = tmp_path / "ffmpeg"
    fake.write_text("#!/bin/bash\n" + script.replace("REAL", imageio_ffmpeg.get_ffmpeg_exe()))
    fake.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(fake))
    write(DARK, tmp_path / "a")
    assert not (tmp_path / "a.mp4").exists()
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert "a.mp4 is not written" in line and (tmp_path / "a.png").exists()


def test_gifs_keep_every_frame_and_their_rate(tmp_path):
    wide = torch.tensor([-0.2, 1.3, 0.5, torch.nan])[:, None, None, None].expand(-1, 3, 8, 8)
    assert [image.max() for image in to_images(wide)] == [0, 255, 128, 255], "clipped, not wrapped"
    frames = noise_frames(9, 3, 8, 16)
    frames[3] = frames[4] = frames[2]
    save_gif(tmp_path / "a.gif", to_images(frames), frames_per_second=25)
    shown = read_video(tmp_path / "a.gif")
    assert shown.shape == (9, 8, 16, 3)
    difference = np.abs(shown.astype(int) - frames.permute(0, 2, 3, 1).numpy())
    assert difference.max() <= 1, "128 colours a frame fit into its palette; only the mark of equal frames may differ"
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.info["duration"] == 40 and gif.info["loop"] == 0


def test_palettes_are_as_good_as_pillows():
    """Frames of many colours: smooth ones, as predictions are, of sides that are no power of two."""
    y, x, t = np.meshgrid(np.linspace(0, 1, 36), np.linspace(0, 1, 52), np.arange(3), indexing="ij")
    smooth = np.stack([np.sin(3 * x + t), np.cos(4 * y * x), 0.5 + 0.3 * np.sin(9 * y - t)], axis=-1)
    frames = ((smooth + 1) * 127.5).astype(np.uint8).transpose(2, 0, 1, 3)
    for palette, indices, frame in zip(*quantize(frames), frames, strict=True):
        pillow = np.asarray(Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE).convert("RGB"))
        errors = [((shown - frame.astype(float)) ** 2).mean() for shown in (palette[indices], pillow)]
        assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 256
        assert errors[0] < errors[1]


def test_one_failure_does_not_stop_the_other_files(tmp_path, capsys):
    def fail():
        raise InputError("a: cannot be written")

    tasks = [fail, fail, *[lambda: "no ffmpeg"] * 2, (tmp_path / "last").touch]
    with pytest.raises(InputError, match=r"a: cannot be written \(and 1 others\)"):
        write_files(tasks, figures=[(tmp_path / "figure").touch])
    assert {path.name for path in tmp_path.iterdir()} == {"last", "figure"}
    assert capsys.readouterr().err.count("warning: no ffmpeg\n") == 1


def test_an_exception_of_a_signal_handler_ends_the_writing():
    """Raised in the main thread, here by a figure; tasks that have not begun are dropped."""
    begun = []

    def stop():
        raise SystemExit

    with pytest.raises(SystemExit):
        write_files([lambda: begun.append(1) or sleep(0.1)] * 500, figures=[stop])
    assert len(begun) < 500


def test_a_validation_is_scored_first_and_shows_the_first_sequences(tmp_path):
    sequences = [Sequence(f"val{i}", noise_frames(3, 3, 8, 16, seed=i), noise_frames(3, 3, 8, 16)) for i in range(6)]
    frames = [sequence.frames[None] / 255 for sequence in sequences]
    average, scores = score_validation(tmp_path, 2, sequences, frames, warn=True)
    assert average == 100.0 and scores["val5"] == [100.0, 100.0], "a perfect frame counts as 100 dB"
    assert [path.name for path in tmp_path.iterdir()] == ["validation.json"]
    draw_validation(tmp_path, 2, sequences, frames, scores, 16, "all", keep_all=True, video=True, rate=25)
    files = {f"val{i}_epoch=2.{kind}" for i in range(4) for kind in ("png", "mp4")}
    files |= {"validation_epoch=2.gif", "psnr_per_frame.png"}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == files


def test_scores_are_safe_before_the_first_image(dance, trained, tmp_path):
    (tmp_path / "seq1").write_text("a file where a folder is needed")
    result = run_inside("Tester.py", "--DR", dance, "--ckpt_path", trained[0] / "best.ckpt", "--save_root", tmp_path,
                        "--no_baselines", "--pictures", "strips")
    check_error(result, "seq1", "cannot be written")
    assert "Your Result" in result.stdout and (tmp_path / "metrics.json").is_file()
    files = {"panel.png", "psnr_per_frame.png", "frames.npz"}
    assert {path.name for path in (tmp_path / "seq0").iterdir()} == files, "the other files are written"


def test_programs_write_panels(dance, trained, tmp_path):
    figures = trained[0] / "figures"
    flags = ["--DR", dance, "--ckpt_path", trained[0] / "best.ckpt", "--no_baselines"]
    result = run_inside("Tester.py", *flags, "--save_root", tmp_path)
    assert result.returncode == 0, result.stderr
    for stem, frames in ((figures / "val0", 12), (tmp_path / "seq1/panel", 10)):
        assert read_video(stem.with_name(stem.name + ".mp4")).shape == (frames, 16 * 4 + 8 + 2 * LINE, 4 * 136, 3)
        assert Image.open(stem.with_name(stem.name + ".png")).height == 4 * (16 * 2 + 8) + 3 * LINE
    with np.load(tmp_path / "seq0/frames.npz") as arrays:
        truth = np.stack([np.asarray(Image.open(path)) for path in sorted((dance / "test/test_gt/0").iterdir())])
        assert np.array_equal(arrays["truth"], truth) and np.array_equal(arrays["prediction"][0], truth[0])
        assert arrays["pose"].shape == arrays["prediction"].shape == truth.shape
    result = run_inside("Tester.py", *flags, "--save_root", tmp_path / "none", "--pictures", "none")
    assert result.returncode == 0 and [path.name for path in (tmp_path / "none/seq0").iterdir()] == ["frames.npz"]
