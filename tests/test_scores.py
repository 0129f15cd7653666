"""SSIM, the trivial baselines and the table that compares them, against hand values and the Tester's files."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import check_error, noise_frames, run_inside
from PIL import Image

from dataloader import Dataset_Dance
from modules.score.baselines import (
    compare,
    nearest_poses,
    score_table,
    trivial_predictions,
    warn_if_below_baselines,
    warn_if_below_first_frame,
)
from modules.score.metrics import METRICS, Metric, all_scores, average, diversity, ssim


def flat(*levels, size=(16, 16)):
    return torch.tensor(levels).reshape(-1, 1, 1, 1).expand(-1, 3, *size).contiguous()


def test_ssim_by_hand():
    a, b, c1 = 0.5, 0.6, 0.01**2  # flat pictures: only the term of the means differs from 1
    expected = (2 * a * b + c1) / (a**2 + b**2 + c1)
    assert ssim(flat(a, b), flat(b, b)).tolist() == pytest.approx([expected, 1.0], abs=1e-3)
    noise = noise_frames(2, 3, 16, 32)
    assert ssim(noise, noise).tolist() == pytest.approx([1.0, 1.0], abs=1e-4)
    # the pictures that every reader can make, and what torchmetrics 1.9 says of them
    wave = torch.arange(3 * 16 * 24).reshape(1, 3, 16, 24)
    one, other = wave * 37 % 256, wave * 41 % 256
    values = ssim(one.to(torch.uint8), ((one + other) // 2).to(torch.uint8))
    assert values.tolist() == pytest.approx([0.665184], abs=1e-5)


def test_what_has_no_number_anywhere_is_left_out_and_said_once():
    truth, predicted = flat(0.2, 0.5, 0.5, size=(8, 16)), flat(0.2, 0.6, 0.6, size=(8, 16))
    scores = all_scores(predicted[None], truth)
    assert scores["ssim"] is None and scores["psnr"] == pytest.approx(20.0, abs=1e-4)
    head, *lines, left_out = score_table({"0": {"model": scores, "first_frame": scores}}).splitlines()
    assert head.split() == ["sequence", "PSNR", "2023", "@1", "change"] and "nan" not in "".join(lines)
    assert left_out.count("SSIM (frames smaller than its window of 11 pixels)") == 1 and "@629" in left_out


def test_a_new_metric_is_one_entry(monkeypatch):
    darkest = Metric("dark", 1, "the darkest value", lambda p: float(p.frames.min() * 255), "no frames")
    monkeypatch.setitem(METRICS, "dark", darkest)
    scores = all_scores(flat(0.1, 0.2, 0.6)[None], flat(0.1, 0.5, 0.5))
    table = score_table({"a": {"model": scores}, "b": {"model": scores | {"dark": 53.0}}}).splitlines()
    assert table[0].split()[-1] == "dark"
    assert [line.split()[-1] for line in table[1:4]] == ["51.0", "53.0", "52.0"], "the last is the mean"


def test_scores_by_hand():
    truth = flat(0.2, *[0.5] * 12)
    predicted = flat(0.9, *[0.6] * 9, *[0.51] * 2, 0.5)  # 20 dB nine times, 40 dB twice, once perfect
    scores = all_scores(predicted[None], truth)
    frames = [20.0] * 9 + [40.0] * 2 + [100.0]
    assert scores["psnr"] == pytest.approx(np.mean(frames), abs=1e-3), "frame 1 is given, not scored"
    assert scores["psnr_2023"] == pytest.approx(sum(frames) / 11, abs=1e-3)
    assert scores["psnr_at"] == {"1": pytest.approx(20.0, abs=1e-4), "10": pytest.approx(40.0, abs=1e-3)}
    assert scores["diversity"] is None


def test_diversity_by_hand():
    samples = torch.stack([flat(0.5, 0.2), flat(0.5, 0.4)])
    assert diversity(samples[:, 1:]) == pytest.approx(0.1 * math.sqrt(2) * 255, rel=1e-5)
    scores = all_scores(samples, flat(0.5, 0.3))
    assert scores["psnr"] == pytest.approx(20.0, abs=1e-3), "the mean over the samples"
    assert scores["diversity"] == pytest.approx(0.1 * math.sqrt(2) * 255, rel=1e-5)


def test_nearest_pose_is_the_nearest():
    known, wanted = noise_frames(9000, 3, 4, 4), noise_frames(5, 3, 4, 4, seed=1)
    wanted[3] = known[8999]
    small = [torch.nn.functional.avg_pool2d(x.float(), 2).flatten(1) for x in (wanted, known)]
    assert nearest_poses(wanted, known).tolist() == torch.cdist(*small).argmin(dim=1).tolist()
    assert nearest_poses(wanted, known)[3] == 8999, "in the last chunk"


def test_trivial_predictions_of_the_data_set(dance):
    sequence = Dataset_Dance(dance, "test", 16, 32).sequences[0]
    training = Dataset_Dance(dance, "train", 16, 32)
    truth = noise_frames(10, 3, 16, 32)
    truth[0] = sequence.frames[0]
    sequence.poses[4] = training.poses[37]
    predictions = trivial_predictions(sequence, truth, training)
    assert all(frames.shape == truth.shape for frames in predictions.values())
    for name, frames in predictions.items():
        if name != "training_mean":
            assert torch.equal(frames[0], sequence.frames[0]), name
    assert torch.equal(predictions["first_frame"][9], sequence.frames[0])
    mean = training.frames.double().mean(dim=0) / 255
    torch.testing.assert_close(predictions["training_mean"][5].double(), mean, atol=1e-6, rtol=0)
    assert torch.equal(predictions["nearest_pose"][4], training.frames[37])
    assert torch.equal(predictions["previous_true_frame"][1:], truth[:-1])
    assert set(trivial_predictions(sequence, truth, None)) == {"first_frame", "previous_true_frame"}


def row(psnr, ssim_value=0.5, at=None, spread=None):
    return {"psnr": psnr, "psnr_2023": psnr + 1, "ssim": ssim_value, "psnr_at": at or {}, "diversity": spread}


def test_table_shows_the_numbers():
    table = score_table({
        "0": {"model": row(20.0, 0.7, {"1": 31.0, "629": 8.5}, 2.25), "first_frame": row(18.0)},
        "4": {"model": row(30.0, 0.9, {"1": 33.0}, 0.75), "first_frame": row(19.0)},
    })
    lines = [line.split() for line in table.splitlines()]
    assert lines[0] == ["sequence", "PSNR", "2023", "SSIM", "@1", "@629", "diversity"]
    assert lines[1] == ["0", "model", "20.00", "21.00", "0.7000", "31.00", "8.50", "2.25"]
    assert lines[2] == ["first", "frame", "18.00", "19.00", "0.5000", "-", "-", "-"]
    assert lines[5] == ["mean", "model", "25.00", "26.00", "0.8000", "32.00", "8.50", "1.50"]
    assert average([row(1.0), row(2.0)])["psnr"] == 1.5
    assert len({len(line) for line in table.splitlines()[1:7] if line.endswith("-")}) == 1, "columns line up"


def test_warnings_name_the_baseline(capsys):
    rows = {"model": row(20.0), "first_frame": row(18.0), "nearest_pose": row(24.0), "previous_true_frame": row(39.0)}
    warn_if_below_baselines({"3": rows})
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "warning: sequence 3: 20.00 dB is below 24.00 dB, a trivial baseline: nearest training pose"
    warn_if_below_baselines({"3": rows | {"model": row(math.nan)}})
    assert len(capsys.readouterr().err.splitlines()) == 2, "a diverged model is below every rival"
    warn_if_below_first_frame({"a": 29.0, "b": 31.0}, dict.fromkeys("ab", flat(0.5, 0.6, 0.51)))
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "warning: sequence a: 29.00 dB is below 30.00 dB, a trivial baseline: first frame"


def test_all_sequences_are_compared_at_once(dance):
    sequences, training = Dataset_Dance(dance, "test", 16, 32).sequences, Dataset_Dance(dance, "train", 16, 32)
    truth = [noise_frames(10, 3, 16, 32, seed=i) for i in range(2)]
    compared = compare(sequences, [x[None] for x in truth], truth, training)
    for sequence, frames in zip(sequences, truth, strict=True):
        alone = trivial_predictions(sequence, frames, training)["nearest_pose"]
        assert compared[sequence.name]["nearest_pose"] == all_scores(alone[None], frames)
        assert compared[sequence.name]["model"]["psnr"] == 100.0
    assert list(compare(sequences, [x[None] for x in truth], [None, truth[1]], None)) == ["1"]


def read_pictures(folder):
    return np.stack([np.asarray(Image.open(path), dtype=float) for path in sorted(folder.iterdir())]) / 255


def test_tester_compares_with_the_baselines_of_the_files(dance, trained, tmp_path):
    flags = ["--ckpt_path", trained[0] / "best.ckpt", "--device", "cpu"]
    result = run_inside("Tester.py", "--DR", dance, "--save_root", tmp_path / "a", *flags)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "a/metrics.json").read_text())
    mean = read_pictures(dance / "train/train_img").mean(axis=0)
    for sequence in metrics["sequences"]:
        truth = read_pictures(dance / f"test/test_gt/{sequence['name']}")
        for name, frame in (("first_frame", truth[0]), ("training_mean", mean)):
            scores = -10 * np.log10(((truth[1:] - frame) ** 2).mean(axis=(1, 2, 3)))
            assert sequence["baselines"][name]["psnr"] == pytest.approx(scores.mean(), abs=1e-3)
            assert sequence["baselines"][name]["psnr_at"]["1"] == pytest.approx(scores[0], abs=1e-3)
        assert f"{sequence['ssim']:.4f}" in result.stdout
        low = sequence["psnr"] < sequence["baselines"]["nearest_pose"]["psnr"]
        assert low == (f"sequence {sequence['name']}: {sequence['psnr']:.2f} dB is below" in result.stderr)
    assert "nearest training pose" in result.stdout and "11 x 11" in metrics["definitions"]["ssim"]

    shutil.copytree(dance / "test", tmp_path / "only/test")
    result = run_inside("Tester.py", "--DR", tmp_path / "only", "--save_root", tmp_path / "b", *flags, "--no_sanity")
    assert result.returncode == 0 and "warning" not in result.stderr
    sequence = json.loads((tmp_path / "b/metrics.json").read_text())["sequences"][0]
    assert set(sequence["baselines"]) == {"first_frame", "previous_true_frame"}, "there is no training set"


def test_several_checkpoints_predict_their_mean(dance, trained, tmp_path):
    first, other, second = trained[0] / "best.ckpt", tmp_path / "other.ckpt", tmp_path / "small.ckpt"
    contents = torch.load(first)
    state = {name: weight * 1.01 if weight.is_floating_point() else weight
             for name, weight in contents["state_dict"].items()}
    torch.save(contents | {"state_dict": state}, other)
    flags = ["--DR", dance, "--device", "cpu", "--no_baselines", "--no_sanity", "--precision", "fp32"]
    frames, scores = {}, {}
    for name, paths in {"a": [first], "b": [other], "both": [first, other]}.items():
        result = run_inside("Tester.py", *flags, "--save_root", tmp_path / name, "--ckpt_path", *paths)
        assert result.returncode == 0, result.stderr
        frames[name] = np.load(tmp_path / name / "seq0/frames.npz")["prediction"].astype(float)
        scores[name] = json.loads((tmp_path / name / "metrics.json").read_text())
    assert np.abs(frames["both"] - (frames["a"] + frames["b"]) / 2).max() <= 1, "levels, rounded"
    alone = scores["both"]["avg_psnr_alone"]
    assert alone == pytest.approx({str(first): scores["a"]["avg_psnr"], str(other): scores["b"]["avg_psnr"]})
    assert f"{scores['a']['avg_psnr']:.3f} with {first} alone" in result.stdout
    assert "avg_psnr_alone" not in scores["a"]

    torch.save(contents | {"config": contents["config"] | {"frame_size": [64, 64]}, "noise": None}, second)
    result = run_inside("Tester.py", *flags, "--save_root", tmp_path / "c", "--ckpt_path", first, second)
    check_error(result, str(second), "64x64", "one size")


def test_change_tells_smooth_from_flickering():
    truth = torch.zeros(5, 3, 12, 12)
    truth[::2] = 0.2
    smooth, shaking = truth.clone(), truth.clone()
    smooth[::2], shaking[::2] = 0.1, 0.4
    assert all_scores(smooth[None], truth)["change"] == pytest.approx(0.1 * 255)
    assert all_scores(smooth[None], truth)["change_ratio"] == pytest.approx(0.5)
    assert all_scores(torch.stack([shaking, truth]), truth)["change_ratio"] == pytest.approx(1.5)
    still = all_scores(smooth[None], torch.zeros(5, 3, 12, 12))
    assert still["change"] > 0 and still["change_ratio"] is None
    assert all_scores(truth[None, :2], truth[:2])["change"] is None
