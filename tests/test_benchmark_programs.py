"""Whole programs, time to a score, frame sizes: what is started, what ends a stage, and the tables, on tiny data."""

import json
import sys

import numpy as np
import pytest
from conftest import ROOT, SMALL, run_inside
from PIL import Image

sys.path.insert(0, str(ROOT / "scripts"))
import benchmark_programs as programs
import plain_program
import sizes
import to_score

from modules.runtime import InputError

real_launch = programs.launch


def read_table(path):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in path.read_text().splitlines() if "|" in line]


def make_launch(calls):
    """The programs, run inside this process; the i-th word that is looked for was printed after i seconds, all end
    after 10."""

    def launch(program, *arguments, words=()):
        calls.append([program, *map(str, arguments)])
        if program == "scripts/plain_program.py":  # it trains the large template: see test_benchmark.py
            times = {"load": 0.1, "predict": 0.2, "gifs": 0.3, "train": 1.0, "work": 2.0}
            return programs.Launch(3.0, {}, json.dumps(times))
        done = run_any(program, *arguments)
        moments = {word: 1.0 + i for i, word in enumerate(words) if word in done}
        return programs.Launch(10.0, moments, done)

    return launch


def run_any(program, *arguments):
    """What a program prints; the two of the project run inside."""
    if program.startswith("scripts/"):
        return real_launch(program, *arguments).text
    done = run_inside(program, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_a_program_is_timed_to_the_lines_that_it_prints(tmp_path):
    (tmp_path / "quick.py").write_text("import sys, time; print('begin'); time.sleep(0.3); print('end', sys.argv[1])")
    done = programs.launch(tmp_path / "quick.py", 7, words=("begin", "end", "never"))
    assert done.text == "begin\nend 7\n" and set(done.moments) == {"begin", "end"}
    assert done.moments["begin"] + 0.25 < done.moments["end"] <= done.seconds
    (tmp_path / "quick.py").write_text("import sys; print('sorry'); sys.exit(2)")
    with pytest.raises(InputError, match="quick.py ended with code 2: sorry"):
        programs.launch(tmp_path / "quick.py")


def test_whole_programs(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(programs, "launch", make_launch(calls))
    size = programs.Size(1, frames=2, train_frames=40, steps=2, plain_frames=1, plain_steps=1)
    monkeypatch.setattr(programs, "QUICK", size)
    monkeypatch.setattr(sys, "argv", ["benchmark_programs.py", "--quick", "--out", str(tmp_path / "p")])
    programs.main()
    head, _, *table = read_table(tmp_path / "p.md")
    rows = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in table}
    assert list(rows)[0] == "Tester.py, six sequences" and len(rows) == 9 + 7
    six, train = rows["Tester.py, six sequences"], rows["Trainer.py, 2 steps and a validation"]
    assert [six[stage] for stage in programs.STAGES] == ["1", "1", "1", "7"] and six["seconds"] == "10"
    assert six["plain reference, s (scaled)"] == "8.2", "1 s to start, 6 sequences of 2 frames of 0.6 s"
    assert train["plain reference, s (scaled)"] == "33.8", "1 s to start, 2 steps of 16 clips, 2 frames of 0.4 s"
    assert rows["Tester.py, to the first predicted frame"]["seconds"] == "2"
    assert float(six["MB a sequence"]) > float(rows["Tester.py, six, --pictures none"]["MB a sequence"]) > 0
    assert all(float(rows[f"one thread: {name}"]["MB a sequence"]) > 0 for name in ("panel.mp4", "pose.gif"))
    assert "on 1 frames of one sequence" in capsys.readouterr().out
    assert json.loads((tmp_path / "p.json").read_text())["plain"]["predict"] == 0.2
    assert Image.open(tmp_path / "p.png").width > 400
    starts = [call[-1].rpartition("/")[2] for call in calls if call[0] == "Tester.py" and "--help" not in call]
    assert len(starts) == 3 + 5, "one untimed start each of one and six sequences and of the short one"


def test_the_plain_reference_as_a_program(dance, tmp_path):
    class Reference:
        def rollouts(self, sequences):
            (sequence,) = sequences
            assert sequence.frames.shape == (1, 3, 32, 64) and sequence.poses.dtype.itemsize == 1
            return [sequence.poses[1:] / 255]

        def step(self):
            return 60

    times = plain_program.measure(Reference(), dance / "test", tmp_path, frames=4, steps=2)
    assert [Image.open(tmp_path / f"{name}.gif").n_frames for name in ("pred_seq", "pose", "ground_truth")] == [4, 5, 5]
    parts = 4 * (times["load"] + times["predict"] + times["gifs"]) + 120 * times["train"]
    np.testing.assert_allclose(parts, times["work"])


def test_time_to_a_score(dance, tmp_path, monkeypatch):
    calls, small = [], " ".join(map(str, SMALL))
    monkeypatch.setattr(to_score, "launch", make_launch(calls))
    monkeypatch.setattr(to_score, "RECIPES", {4.0: f"--epoch_steps 1 {small}", 90.0: f"--epoch_steps 2 {small}"})
    flags = ["--DR", str(dance), "--out", str(tmp_path / "s"), "--keep", str(tmp_path / "runs"), "--seeds", "3", "4"]
    monkeypatch.setattr(sys, "argv", ["to_score.py", *flags])
    to_score.main()
    assert [call[0] for call in calls] == ["Trainer.py", *["Trainer.py", "Tester.py"] * 4]
    head, _, *rows = read_table(tmp_path / "s.md")
    assert head[-3:] == ["test 0, dB", "test 1, dB", "reached"]
    assert [row[0] for row in rows] == ["4", "90"] and [row[-1] for row in rows] == ["2 of 2", "0 of 2"]
    assert rows[0][3] == "10.0 ± 0.0" and rows[1][1] == f"`--epoch_steps 2 {small}`"
    runs = json.loads((tmp_path / "s.json").read_text())["runs"]
    assert [(run["seed"], run["target"]) for run in runs] == [(3, 4), (3, 90), (4, 4), (4, 90)]
    assert all(0 < run["train_seconds"] < 60 and set(run["test_psnr"]) == {"0", "1"} for run in runs)
    assert Image.open(tmp_path / "s.png").width > 400

    calls.clear()
    to_score.main()
    assert not calls, "everything is there"
    monkeypatch.setattr(to_score, "RECIPES", {4.0: f"--epoch_steps 1 {small} --lr 0.001"})
    to_score.main()
    assert [call[0] for call in calls] == ["Trainer.py", *["Trainer.py", "Tester.py"] * 2], "another recipe"
    monkeypatch.setattr(to_score, "RECIPES", {4.0: f"{small}"})
    with pytest.raises(InputError, match="--epoch_steps"):
        to_score.main()


def test_the_table_of_sizes(dance, tmp_path, monkeypatch, capsys):
    calls, narrow = [], ["--F_dim", "16", "--L_dim", "8", "--N_dim", "4", "--D_out_dim", "16", "--batch_size", "2"]
    monkeypatch.setattr(sizes, "launch", make_launch(calls))
    monkeypatch.setattr(sizes, "FLAGS", [*sizes.FLAGS, *narrow])
    flags = ["--DR", str(dance), "--out", str(tmp_path / "s"), "--keep", str(tmp_path / "runs"), "--sizes"]
    monkeypatch.setattr(sys, "argv", ["sizes.py", *flags, "16x32=1x2"])
    sizes.main()
    assert [call[0] for call in calls] == ["Trainer.py", "Tester.py"]
    calls.clear()
    monkeypatch.setattr(sys, "argv", ["sizes.py", *flags, "16x32=1x2", "16x16=2x1"])
    sizes.main()
    assert [call[0] for call in calls] == ["Trainer.py", "Tester.py"], "the other size is there"
    names = ("--frame_H", "--frame_W", "--num_epoch", "--epoch_steps", "--val_every", "--seed")
    assert [calls[0][calls[0].index(name) + 1] for name in names] == ["16", "16", "2", "1", "1", "0"]
    head, _, *rows = read_table(tmp_path / "s.md")
    assert head == list(sizes.TITLES.values()) and [row[:2] for row in rows] == [["16x32", "4"], ["16x16", "4"]]
    assert [row[4:6] for row in rows] == [["1 x 2 steps", "4"], ["2 x 1 steps", "4"]]
    runs = json.loads((tmp_path / "s.json").read_text())["runs"]
    tested = json.loads((tmp_path / "runs/16x32_1x2_seed0/test/metrics.json").read_text())["sequences"]
    assert runs[0]["psnr"] == np.mean([s["psnr"] for s in tested])
    assert runs[0]["gain"] == runs[0]["psnr"] - np.mean([s["baselines"]["nearest_pose"]["psnr"] for s in tested])
    assert runs[0]["gflop"] == pytest.approx(2 * runs[1]["gflop"]) and runs[0]["parameters"] == runs[1]["parameters"]
    picture = np.asarray(Image.open(tmp_path / "s.png"))
    assert picture.shape == (2 * (20 + 2 * 128 + 4), 1600, 3)
    truth = np.asarray(Image.open(dance / "test/test_gt/0/frame000009.png").resize((32, 16), Image.BILINEAR))
    assert np.array_equal(picture[20:148:8, 5 * 260 : 5 * 260 + 256 : 8], truth), "the last frame is the last moment"
    monkeypatch.setattr(sys, "argv", ["sizes.py", *flags, "32x64"])
    with pytest.raises(InputError, match="16x32; expected at least 32x64"):
        sizes.main()


@pytest.mark.parametrize("text, size", [("64x128", (64, 128, 16, 250)), ("8x16=2x30", (8, 16, 2, 30)),
                                        ("64", None), ("64x128=3", None), ("0x64", None), ("64x128=0x9", None)])
def test_sizes_are_parsed(text, size):
    if size:
        assert sizes.Size.parse(text) == size
    else:
        with pytest.raises(sizes.argparse.ArgumentTypeError, match="HEIGHTxWIDTH=EPOCHSxSTEPS"):
            sizes.Size.parse(text)
