"""Panels, read back from the files: frame count, size, and what is at known pixels; and who draws them."""

import os
import signal

import imageio_ffmpeg
import numpy as np
import pytest
from conftest import check_error, noise_frames, run_inside
from PIL import Image, ImageSequence

from modules.data.sequence import Sequence
from modules.runtime import InputError
from modules.show import pictures
from modules.show.panels import BORDER, ERROR_FULL, GREEN, LINE, PAPER, RED, SCALE, Film, Panels, error_map, to_yuv
from modules.show.pictures import Job, draw, sequence_jobs
from modules.show.validation import draw_validation, score_validation

H, W, T = 8, 16, 7
CELL_H, CELL_W = H * SCALE + 2 * BORDER, W * SCALE + 2 * BORDER
COLUMNS = ("truth", "pose", "prediction", "error")


def read_film(path):
    """(T, height, width, 3) uint8"""
    if path.suffix == ".gif":
        with Image.open(path) as gif:
            return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)])
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


def levels(*values):
    """Frames of one grey level each, of 1: (T, H, W, 3) uint8."""
    return np.tile(np.rint(np.array(values) * 255).astype(np.uint8)[:, None, None, None], (1, H, W, 3))


@pytest.fixture()
def film():
    """Truth 0.6, 0.5, … whose prediction is 0.1 too dark; poses white with one red line."""
    poses = levels(*[1.0] * T)
    poses[:, 4, :, 1:] = 0
    psnr = [20.0 + t for t in range(T - 1)]
    return Film("val0", levels(0.6, *[0.4] * (T - 1)), poses, levels(0.6, *[0.5] * (T - 1)), psnr)


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


def draw_panels(film, stem, gifs=None, kind="all"):
    draw(sequence_jobs(film, stem, gifs or {}, kind))


def test_the_film_shows_every_frame(film, tmp_path):
    draw_panels(film, tmp_path / "val0")
    assert {path.name for path in tmp_path.iterdir()} == {"val0.png", "val0.mp4"}
    check_film(read_film(tmp_path / "val0.mp4"), 25)  # H.264 stores colour at half the resolution
    check_film(np.stack(list(Panels(film))), 0)


@pytest.mark.parametrize("height,width", [(8, 16), (9, 131)], ids=["magnified by 4", "odd sides by 3"])
def test_the_planes_of_a_film_are_its_panels_in_the_colours_of_films(height, width):
    frames = np.random.default_rng(0).integers(0, 256, (3, 3, height, width, 3), dtype=np.uint8)
    panels = Panels(Film("s", *frames, [30.0, 40.0]))
    assert to_yuv(np.array([[255] * 3, [0] * 3], np.uint8)).tolist() == [[235, 16], [128, 128], [128, 128]]
    for panel, frame in zip(panels, panels.planes(), strict=True):
        height, width, _ = panel.shape
        luma, *colors = to_yuv(panel)
        assert height % 2 == width % 2 == 0 and np.array_equal(frame[:height], luma)
        assert np.array_equal(frame[height:].ravel(), np.stack(colors)[:, ::2, ::2].ravel())


def test_captions_differ_from_frame_to_frame(film):
    panels = Panels(film)
    captions = {panels[t][-LINE:].tobytes() for t in range(T)}
    assert len(captions) == T


def test_the_heat_map_is_black_without_error_and_ever_brighter():
    errors = np.linspace(0, 0.4, 41)
    colors = error_map(levels(*errors), levels(*[0.0] * 41))[:, 0, 0].astype(int)
    assert colors[0].max() <= 4 and (colors[errors >= ERROR_FULL] == (252, 255, 164)).all()
    assert (np.diff(colors[errors < ERROR_FULL] @ (0.299, 0.587, 0.114)) > 0).all()


def test_strip_holds_evenly_spaced_moments(tmp_path):
    truth = levels(*np.linspace(0, 1, 19))
    draw_panels(Film("s", truth, levels(*[1.0] * 19), truth, [100.0] * 18), tmp_path / "s", kind="strips")
    assert [path.name for path in tmp_path.iterdir()] == ["s.png"]
    strip = np.asarray(Image.open(tmp_path / "s.png"))
    cell_h, cell_w = H * 2 + 2 * BORDER, W * 2 + 2 * BORDER
    assert strip.shape == (3 * LINE + 4 * cell_h, 10 * cell_w, 3)
    shown = strip[LINE + cell_h // 2, cell_w // 2 :: cell_w, 0]
    assert np.abs(shown / 255 - np.arange(0, 19, 2) / 18).max() < 0.003, "frames 1, 3, … 19"
    errors = strip[LINE + cell_h * 7 // 2, cell_w // 2 :: cell_w]
    assert errors.shape == (10, 3) and errors.max() <= 4, "a perfect prediction: the error is black"


def test_short_sequences_and_no_truth(tmp_path):
    frames = levels(0.2, 0.9, 1.0)
    draw_panels(Film("s", frames, frames), tmp_path / "s")
    shown = read_film(tmp_path / "s.mp4")
    assert shown.shape == (3, 2 * LINE + CELL_H, 2 * CELL_W, 3), "pose and prediction"
    strip = np.asarray(Image.open(tmp_path / "s.png"))
    assert strip.shape[1] == 3 * (W * 2 + 2 * BORDER), "three moments, none twice"


BROKEN = {
    "missing": None,
    "ends with an error": "echo 'No space left on device' >&2; exit 1",
    "dies": "kill -9 $$",
    "leaves a file that cannot be opened": "cat > /dev/null; for film; do :; done; echo nothing > $film",
    "leaves half of the film": """case "$*" in
        *libx264*) exec REAL "${@:1:$#-1}" -frames:v 3 "${@: -1}";;
        *) exec REAL "$@";;
    esac""",
}


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN)
def test_a_film_that_cannot_be_played_is_a_gif_and_one_line(script, film, tmp_path, monkeypatch, capsys):
    fake = tmp_path / "ffmpeg"
    if script:
        fake.write_text("#!/bin/bash\n" + script.replace("REAL", imageio_ffmpeg.get_ffmpeg_exe()))
        fake.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(fake))
    draw_panels(film, tmp_path / "a")
    assert not (tmp_path / "a.mp4").exists()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "a.mp4 is not written" in line and "a.gif is there instead" in line
    check_film(read_film(tmp_path / "a.gif"), 0)


def test_processes_draw_what_one_would_and_a_dead_one_is_noticed(film, tmp_path, monkeypatch, capsys):
    jobs = [*sequence_jobs(film, tmp_path / "a/p", {tmp_path / "a/g.gif": film.prediction}, "all"),
            Job(fail, (tmp_path / "no",), 1)]
    with pytest.raises(InputError, match="no: cannot be written"):
        draw(jobs)
    monkeypatch.setattr(pictures, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(pictures, "usable_cores", lambda: 2)
    with pytest.raises(InputError, match="no: cannot be written"):
        moved = [job._replace(arguments=(tmp_path / "b" / job.arguments[0].name, *job.arguments[1:])) for job in jobs]
        draw([*moved, Job(die_elsewhere, (os.getpid(), tmp_path / "b/lived"), 100)])
    assert (tmp_path / "b/lived").exists(), "done here after its process died"
    for name in ("p.png", "g.gif"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    check_film(read_film(tmp_path / "b/p.mp4"), 25)


def test_a_validation_is_scored_first_and_draws_the_first_films(tmp_path):
    sequences = [Sequence(f"val{i}", noise_frames(3, 3, 8, 16, seed=i), noise_frames(3, 3, 8, 16)) for i in range(6)]
    predicted = [sequence.frames[None] / 255 for sequence in sequences]
    average, scores = score_validation(tmp_path, 2, sequences, predicted, warn=True)
    assert average == 100.0 and scores["val5"] == [100.0, 100.0], "a perfect frame counts as 100 dB"
    assert [path.name for path in tmp_path.iterdir()] == ["validation.json"]
    draw_validation(tmp_path, 2, sequences, predicted, scores, 16, "all", keep_all=True, films=True)
    films = {f"val{i}_epoch=2.{kind}" for i in range(4) for kind in ("png", "mp4")}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        *films, "validation_epoch=2.gif", "psnr_per_frame.png"
    }


def fail(path):
    raise InputError(f"{path}: cannot be written")


def die_elsewhere(home, path):
    if os.getpid() != home:
        os.kill(os.getpid(), signal.SIGKILL)
    path.parent.mkdir(exist_ok=True)
    path.touch()


def test_scores_are_safe_before_the_first_picture(dance, trained, tmp_path):
    (tmp_path / "seq1").write_text("a file where a folder is needed")
    result = run_inside("Tester.py", "--DR", dance, "--ckpt_path", trained[0] / "best.ckpt", "--save_root", tmp_path,
                        "--no_baselines", "--pictures", "strips")
    check_error(result, "seq1", "cannot be written")
    assert "Your Result" in result.stdout and (tmp_path / "metrics.json").is_file()
    assert (tmp_path / "seq0/panel.png").is_file(), "what can be drawn is"


def test_programs_write_panels(dance, trained, tmp_path):
    figures = trained[0] / "figures"
    flags = ["--DR", dance, "--ckpt_path", trained[0] / "best.ckpt", "--no_baselines"]
    result = run_inside("Tester.py", *flags, "--save_root", tmp_path)
    assert result.returncode == 0, result.stderr
    for stem, frames in ((figures / "val0", 12), (tmp_path / "seq0/panel", 10), (tmp_path / "seq1/panel", 10)):
        shown = read_film(stem.with_name(stem.name + ".mp4"))
        assert shown.shape == (frames, 16 * 4 + 8 + 2 * LINE, 4 * (32 * 4 + 8), 3)
        assert Image.open(stem.with_name(stem.name + ".png")).height == 4 * (16 * 2 + 8) + 3 * LINE
    with np.load(tmp_path / "seq0/frames.npz") as arrays:
        truth = np.stack([np.asarray(Image.open(path)) for path in sorted((dance / "test/test_gt/0").iterdir())])
        assert np.array_equal(arrays["truth"], truth) and np.array_equal(arrays["prediction"][0], truth[0])
        assert arrays["pose"].shape == arrays["prediction"].shape == truth.shape
    for kind, files in (("strips", {"panel.png", "psnr_per_frame.png", "frames.npz"}), ("none", {"frames.npz"})):
        result = run_inside("Tester.py", *flags, "--save_root", tmp_path / kind, "--pictures", kind)
        assert result.returncode == 0 and (tmp_path / kind / "metrics.json").is_file()
        assert {path.name for path in (tmp_path / kind / "seq0").iterdir()} == files
