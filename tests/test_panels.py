"""Panels, read back from the files: frame count, size, and what is at known pixels."""

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from conftest import run
from PIL import Image, ImageSequence

from modules.show.panels import BORDER, GREEN, LINE, PAPER, RED, SCALE, Panels, save_mp4, write_panels

H, W, T = 8, 16, 7
CELL_H, CELL_W = H * SCALE + 2 * BORDER, W * SCALE + 2 * BORDER
COLUMNS = ("truth", "pose", "prediction", "error")


def read_film(path):
    reader = imageio.get_reader(path)
    return [reader.get_data(t) for t in range(reader.count_frames())]


def levels(*values):
    """Frames of one grey level each: (T, 3, H, W)."""
    return torch.tensor(values).reshape(-1, 1, 1, 1).expand(-1, 3, H, W).contiguous()


@pytest.fixture()
def sequence():
    """Truth 0.6, 0.5, … whose prediction is 0.1 too dark; poses white with one red line."""
    truth = levels(0.6, *[0.5] * (T - 1))
    predicted = truth - 0.1
    predicted[0] = truth[0]
    poses = torch.ones(T, 3, H, W)
    poses[:, 1:, 4] = 0
    return predicted, poses, truth


def middle(column, row=H // 2):
    """The centre of a magnified pixel of one column: y, x."""
    return LINE + BORDER + row * SCALE + SCALE // 2, COLUMNS.index(column) * CELL_W + BORDER + W // 2 * SCALE + 2


def border(column):
    return LINE + CELL_H // 2, COLUMNS.index(column) * CELL_W + BORDER // 2


def check_film(film, tolerance):
    """Known pixels of every frame of a film (T, height, width, 3)."""
    assert film.shape == (T, 2 * LINE + CELL_H, 4 * CELL_W, 3)
    for t, panel in enumerate(film.astype(int)):
        expected = {
            middle("truth"): (153 if t == 0 else 128,) * 3,
            middle("pose"): (255, 0, 0),
            middle("pose", 1): (255, 255, 255),
            middle("prediction"): (153 if t == 0 else 102,) * 3,
            border("truth"): GREEN if t == 0 else PAPER,
            border("prediction"): GREEN if t == 0 else RED,
            border("pose"): PAPER,
        }
        for place, color in expected.items():
            assert np.abs(panel[place] - color).max() <= tolerance, (t, place, panel[place], color)
        if t == 0:
            assert panel[middle("error")].max() <= tolerance + 4, "no error in the given frame"
        else:
            assert panel[middle("error")].max() > 100, "0.1 of 0.25: well up the heat map"
        for caption in (panel[:LINE], panel[-LINE:]):
            assert caption.min() < 100, "words in ink"


def test_mp4_and_gif_show_every_frame(sequence, tmp_path):
    write_panels(tmp_path / "val0", *sequence)
    film = np.stack(read_film(tmp_path / "val0.mp4"))
    check_film(film, 25)  # H.264 stores colour at half the resolution
    with Image.open(tmp_path / "val0.gif") as gif:
        assert gif.info["duration"] == 50 and gif.info["loop"] == 0
        film = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)])
    check_film(film, 6)


def test_captions_differ_from_frame_to_frame(sequence):
    panels = Panels(*sequence)
    captions = {panels[t][-LINE:].tobytes() for t in range(T)}
    assert len(captions) == T


def test_strip_holds_evenly_spaced_moments(tmp_path):
    truth = levels(*np.linspace(0, 1, 19, dtype=np.float32))
    write_panels(tmp_path / "s", truth, torch.ones_like(truth), truth, movies=False)
    assert not (tmp_path / "s.mp4").exists() and not (tmp_path / "s.gif").exists()
    strip = np.asarray(Image.open(tmp_path / "s.png"))
    cell_h, cell_w = H * 2 + 2 * BORDER, W * 2 + 2 * BORDER
    assert strip.shape == (3 * LINE + 4 * cell_h, 10 * cell_w, 3)
    shown = strip[LINE + cell_h // 2, cell_w // 2 :: cell_w, 0]
    assert np.abs(shown / 255 - np.arange(0, 19, 2) / 18).max() < 0.003, "frames 1, 3, … 19"
    errors = strip[LINE + cell_h * 7 // 2, cell_w // 2 :: cell_w]
    assert errors.shape == (10, 3) and errors.max() <= 4, "a perfect prediction: the error is black"


def test_short_sequences_and_no_truth(tmp_path):
    predicted = levels(0.2, 0.9, 1.7)
    write_panels(tmp_path / "s", predicted, predicted, None)
    film = np.stack(read_film(tmp_path / "s.mp4"))
    assert film.shape == (3, 2 * LINE + CELL_H, 2 * CELL_W, 3), "pose and prediction"
    assert film[2][LINE + CELL_H // 2, CELL_W + CELL_W // 2].min() > 240, "values above 1 are clipped, not wrapped"
    strip = np.asarray(Image.open(tmp_path / "s.png"))
    assert strip.shape[1] == 3 * (W * 2 + 2 * BORDER), "three moments, none twice"


def test_without_ffmpeg_the_gif_is_there(sequence, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "no_ffmpeg"))
    save_mp4(tmp_path / "a.mp4", Panels(*sequence), 20)
    assert not (tmp_path / "a.mp4").exists()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "a.mp4 is not written, see the GIF" in lines[0]
    write_panels(tmp_path / "a", *sequence)
    assert (tmp_path / "a.gif").is_file()


def test_numbers_that_are_not_finite_are_drawn(tmp_path):
    predicted = levels(0.5, float("nan"))
    panel = Panels(predicted, torch.ones(2, 3, H, W), levels(0.5, 0.5))[1]
    assert (panel[middle("error")] > 150).any(), "the bright end of the heat map"


def test_programs_write_panels(dance, trained, tmp_path):
    figures = trained[0] / "figures"
    result = run("Tester.py", "--DR", dance, "--save_root", tmp_path, "--ckpt_path", trained[0] / "best.ckpt")
    assert result.returncode == 0, result.stderr
    for stem, frames in ((figures / "val0", 12), (tmp_path / "seq0/panel", 10), (tmp_path / "seq1/panel", 10)):
        film = imageio.get_reader(stem.with_name(stem.name + ".mp4"))
        assert film.count_frames() == frames
        with Image.open(stem.with_name(stem.name + ".gif")) as gif:
            assert gif.n_frames == frames
            assert gif.size == film.get_meta_data()["size"] == (4 * (32 * 4 + 8), 16 * 4 + 8 + 2 * LINE)
        assert Image.open(stem.with_name(stem.name + ".png")).height == 4 * (16 * 2 + 8) + 3 * LINE
