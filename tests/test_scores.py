"""Metrics, the trivial baselines and the table that compares them, against hand values and the Tester's files."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import check_error, noise_frames, run_inside
from PIL import Image

from dataloader import Dataset_Dance
from modules.data.sequence import Sequence
from modules.model.vae import MSE_FLOOR, VAE_Model, frame_loss
from modules.score.baselines import compare, nearest_poses, score_table, warn_if_below_baselines
from modules.score.metrics import METRICS, Metric, all_scores, psnr, psnr_kaggle, score, ssim
from modules.score.predict import draw_noise, predict


def flat(*levels, size=(16, 16)):
    return torch.tensor(levels).reshape(-1, 1, 1, 1).expand(-1, 3, *size).contiguous()


def test_psnr_by_hand():
    """Predictions are clipped before they are scored. The mean is that of the frames' PSNR, not of their errors; the
    given frame is not scored; a perfect frame counts as 100 dB."""
    expected = {(0.5, 0.6): 20, (0.5, 0.51): 40, (0, 1): 0, (0.5, 0.5): math.inf, (1.5, 1): math.inf, (-3, 0.1): 20}
    frames, truth = (flat(*map(float, values)) for values in zip(*expected, strict=True))
    assert psnr(frames, truth).tolist() == pytest.approx(list(expected.values()), abs=1e-3)
    truth = flat(0.2, *[0.5] * 12)
    predicted = flat(0.9, *[0.6] * 9, *[0.51] * 2, 0.5)  # 20 dB nine times, 40 dB twice, once perfect
    scores, frames = all_scores(predicted[None], truth), [20.0] * 9 + [40.0] * 2 + [100.0]
    assert score(predicted[None], truth)[0].tolist() == pytest.approx(frames, abs=1e-3)
    assert scores["psnr"] == pytest.approx(np.mean(frames), abs=1e-3)
    assert scores["psnr_2023"] == pytest.approx(sum(frames) / 11, abs=1e-3)
    assert scores["psnr_at"] == {"1": pytest.approx(20.0, abs=1e-4), "10": pytest.approx(40.0, abs=1e-3)}
    scores = all_scores(torch.stack([flat(0.5, 0.2), flat(0.5, 0.4)]), flat(0.5, 0.3))
    assert scores["psnr"] == pytest.approx(20.0, abs=1e-3), "the mean over the samples"
    assert scores["diversity"] == pytest.approx(0.1 * math.sqrt(2) * 255, rel=1e-5)


def test_kaggle_scores_8_bit_frames_1_to_600():
    truth = [torch.zeros(630, 3, 2, 4) for _ in range(5)]
    predicted = [torch.full((630, 3, 2, 4), level / 255) for level in (1, 1, 1, 2, 4)]
    for frames in predicted:
        frames[0], frames[601:] = 1.0, 1.0  # must not be scored
    scores = psnr_kaggle(predicted, truth)
    decibel = [-20 * math.log10(level / 255) for level in (1, 1, 1, 2, 4)]
    assert scores == {"public": pytest.approx(sum(decibel[:3]) / 3), "private": pytest.approx(sum(decibel[3:]) / 2)}
    some = psnr_kaggle(predicted, [None, None, None, None, truth[4]])
    assert math.isnan(some["public"]) and some["private"] == pytest.approx(decibel[4]), "by the place in the test set"


def test_ssim_by_hand():
    a, b, c1 = 0.5, 0.6, 0.01**2  # flat images: only the term of the means differs from 1
    expected = (2 * a * b + c1) / (a**2 + b**2 + c1)
    assert ssim(flat(a, b), flat(b, b)).tolist() == pytest.approx([expected, 1.0], abs=1e-3)
    wave = torch.arange(3 * 16 * 24).reshape(1, 3, 16, 24)  # what torchmetrics 1.9 says of two images
    image, other = wave * 37 % 256, wave * 41 % 256
    values = ssim(image.to(torch.uint8), ((image + other) // 2).to(torch.uint8))
    assert values.tolist() == pytest.approx([0.665184], abs=1e-5)
    many = noise_frames(2, 131, 3, 12, 12)  # two samples, scored in parts
    expected = np.mean([ssim(frames[1:], many[0, 1:]).mean() for frames in many])
    assert all_scores(many, many[0])["ssim"] == pytest.approx(expected, abs=1e-6)


def test_change_tells_smooth_from_flickering():
    truth = torch.zeros(5, 3, 12, 12)
    truth[::2] = 0.2
    smooth, shaking = truth / 2, truth * 2
    assert all_scores(smooth[None], truth)["change"] == pytest.approx(0.1 * 255)
    assert all_scores(smooth[None], truth)["change_ratio"] == pytest.approx(0.5)
    assert all_scores(torch.stack([shaking, truth]), truth)["change_ratio"] == pytest.approx(1.5)
    assert all_scores(smooth[None], 0 * truth)["change_ratio"] is None
    assert all_scores(truth[None, :2], truth[:2])["change"] is None


def test_a_new_metric_is_one_entry_and_one_without_numbers_is_left_out(monkeypatch):
    monkeypatch.setitem(METRICS, "dark", Metric("dark", 1, "the darkest", lambda p: float(p.frames.min() * 255), "-"))
    scores = all_scores(flat(0.2, 0.2, 0.6, size=(8, 16))[None], flat(0.2, 0.5, 0.5, size=(8, 16)))
    table = score_table({"a": {"model": scores}, "b": {"model": scores | {"dark": 53.0}}}).splitlines()
    assert table[0].split() == ["sequence", "PSNR", "2023", "@1", "change", "dark"] and "nan" not in "".join(table)
    assert [line.split()[-1] for line in table[1:4]] == ["51.0", "53.0", "52.0"], "the last is the mean"
    assert table[-1].count("SSIM (frames smaller than its window of 11 pixels)") == 1 and "@629" in table[-1]


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


def test_warnings_name_the_baseline(capsys):
    rows = {"model": row(20.0), "first_frame": row(18.0), "nearest_pose": row(24.0), "previous_true_frame": row(39.0)}
    warn_if_below_baselines({"3": rows})
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "warning: sequence 3: 20.00 dB is below 24.00 dB, a trivial baseline: nearest training pose"
    warn_if_below_baselines({"3": rows | {"model": row(math.nan)}})
    assert len(capsys.readouterr().err.splitlines()) == 2, "a diverged model is below every rival"
    warn_if_below_baselines(dict.fromkeys("12345678", rows))
    assert " and 2 more, a trivial baseline: nearest" in capsys.readouterr().err


def test_nearest_pose_is_the_nearest():
    known, wanted = noise_frames(9000, 3, 4, 4), noise_frames(5, 3, 4, 4, seed=1)
    wanted[3] = known[8999]
    small = [torch.nn.functional.avg_pool2d(x.float(), 2).flatten(1) for x in (wanted, known)]
    assert nearest_poses(wanted, known).tolist() == torch.cdist(*small).argmin(dim=1).tolist()
    assert nearest_poses(wanted, known)[3] == 8999, "in the last chunk"


def test_baselines_of_a_data_set(dance):
    sequences, training = Dataset_Dance(dance, "test", 16, 32).sequences, Dataset_Dance(dance, "train", 16, 32)
    truth = [noise_frames(10, 3, 16, 32, seed=i) for i in range(2)]
    compared = compare(sequences, [x[None] for x in truth], truth, training)
    for sequence, frames in zip(sequences, truth, strict=True):
        nearest = training.frames[nearest_poses(sequence.poses[1:], training.poses)]
        for name, rest in {"nearest_pose": nearest, "previous_true_frame": frames[:-1]}.items():
            assert compared[sequence.name][name] == all_scores(torch.cat([frames[:1], rest])[None], frames), name
        assert compared[sequence.name]["model"]["psnr"] == 100.0
    assert list(compare(sequences, [x[None] for x in truth], [None, truth[1]], None)) == ["1"]


def test_tester_compares_with_the_baselines_of_the_files(dance, trained, tmp_path):
    def read(folder):
        return np.stack([np.asarray(Image.open(path), dtype=float) for path in sorted(folder.iterdir())]) / 255

    flags = ["--ckpt_path", trained[0] / "best.ckpt", "--device", "cpu", "--pictures", "none"]
    result = run_inside("Tester.py", "--DR", dance, "--save_root", tmp_path / "a", *flags)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "a/metrics.json").read_text())
    for sequence in metrics["sequences"]:
        truth = read(dance / f"test/test_gt/{sequence['name']}")
        for name, frame in (("first_frame", truth[0]), ("training_mean", read(dance / "train/train_img").mean(axis=0))):
            scores = -10 * np.log10(((truth[1:] - frame) ** 2).mean(axis=(1, 2, 3)))
            assert sequence["baselines"][name]["psnr"] == pytest.approx(scores.mean(), abs=1e-3)
        low = sequence["psnr"] < sequence["baselines"]["nearest_pose"]["psnr"]
        assert low == (f"sequence {sequence['name']}: {sequence['psnr']:.2f} dB is below" in result.stderr)
    assert "nearest training pose" in result.stdout and "11 x 11" in metrics["definitions"]["ssim"]

    shutil.copytree(dance / "test", tmp_path / "only/test")
    result = run_inside("Tester.py", "--DR", tmp_path / "only", "--save_root", tmp_path / "b", *flags, "--no_sanity")
    assert result.returncode == 0 and "warning" not in result.stderr
    sequence = json.loads((tmp_path / "b/metrics.json").read_text())["sequences"][0]
    assert set(sequence["baselines"]) == {"first_frame", "previous_true_frame"}, "there is no training set"


def test_several_checkpoints_predict_their_mean(dance, trained, tmp_path):
    first, second, small = trained[0] / "best.ckpt", tmp_path / "second.ckpt", tmp_path / "small.ckpt"
    contents = torch.load(first)
    state = {name: weight * 1.01 for name, weight in contents["state_dict"].items() if weight.is_floating_point()}
    torch.save(contents | {"state_dict": contents["state_dict"] | state}, second)
    torch.save(contents | {"config": contents["config"] | {"frame_size": [64, 64]}, "noise": None}, small)
    flags = ["--DR", dance, "--device", "cpu", "--no_baselines", "--precision", "fp32", "--pictures", "none"]
    frames, metrics = {}, {}
    for name, paths in {"a": [first], "b": [second], "both": [first, second]}.items():
        result = run_inside("Tester.py", *flags, "--save_root", tmp_path / name, "--ckpt_path", *paths)
        assert result.returncode == 0, result.stderr
        frames[name] = np.load(tmp_path / name / "seq0/frames.npz")["prediction"].astype(float)
        metrics[name] = json.loads((tmp_path / name / "metrics.json").read_text())
    assert np.abs(frames["both"] - (frames["a"] + frames["b"]) / 2).max() <= 1, "levels, rounded"
    alone = {str(first): metrics["a"]["avg_psnr"], str(second): metrics["b"]["avg_psnr"]}
    assert metrics["both"]["avg_psnr_alone"] == pytest.approx(alone) and "avg_psnr_alone" not in metrics["a"]
    result = run_inside("Tester.py", *flags, "--save_root", tmp_path / "c", "--ckpt_path", first, small)
    check_error(result, str(small), "64x64", "one size")


def test_samples_are_those_of_one_rollout():
    """A sequence that is longer than a chunk; its samples have noise of their own."""
    torch.manual_seed(0)
    model = VAE_Model("multiscale", F_dim=8, L_dim=8, N_dim=2, D_out_dim=8).train()
    sequence = Sequence("0", noise_frames(1, 3, 16, 32), noise_frames(40, 3, 16, 32, seed=1))
    (samples,) = predict(model, [sequence], torch.float32, num_samples=2)
    assert model.training
    noise = torch.stack([draw_noise(model, sequence, (0, 0, sample)) for sample in (0, 1)])
    x_1, poses = (x.expand(2, *x.shape) for x in (sequence.frames[0], sequence.poses))
    with torch.no_grad():
        frames = model.eval().rollout(x_1, poses, noise=noise).frames.clamp(0, 1)
    torch.testing.assert_close(samples[:, 1:], frames, atol=1e-4, rtol=1e-4)


def test_losses_by_hand():
    frames, target, kl = flat(0.5, size=(2, 4))[None], flat(0.6, size=(2, 4))[None], torch.tensor([[3.0]])
    loss, mse = frame_loss("mse", frames, target, kl, 0.5)
    assert mse.item() == pytest.approx(0.01) and loss.item() == pytest.approx(0.01 + 1.5)
    expected = (12 * math.log(0.01 + MSE_FLOOR) + 0.5 * 3) / 12  # (D/2 log mse + beta KL) in units of D/2
    assert frame_loss("calibrated", frames, target, kl, 0.5)[0].item() == pytest.approx(expected, abs=1e-5)
