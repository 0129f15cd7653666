"""The ribbon of make_dataset.py and its measures: the angle in the pixels is the drawn one; a ribbon, fog and jumps."""

import csv
import json

import numpy as np
import pytest
import torch
from conftest import SMALL, run_inside
from dancer import RIBBON, add_ribbon, make_motion, make_skeleton
from make_dataset import CAMERA_DISTANCE, FOCAL, Scene

from dataloader import Dataset_Dance
from modules.score import ribbon
from modules.score.ribbon import best_psnr, look, movement, ribbon_use

FEW = ["--seed", 5, "--train_frames", 24, "--train_clips", 1, "--val_frames", 80, "--test_frames", 2,
       "--test_sequences", 1, "--broken_poses", 0]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The same data set with and without a ribbon."""
    root = tmp_path_factory.mktemp("ribbon")
    for name, flags in (("ribbon", ["--ribbon"]), ("plain", [])):
        result = run_inside("make_dataset.py", root / name, *FEW, *flags)
        assert result.returncode == 0, result.stderr
    return root


@pytest.fixture(scope="module")
def data(sets):
    """The validation sequence, and where the ribbon is tied in each of its frames (T, 2)."""
    return Dataset_Dance(sets / "ribbon", "val").sequences[0], json.loads((sets / "ribbon/ribbon.json").read_text())


def hair_of(data):
    """The same in pixels."""
    return torch.tensor(data[1]) * torch.tensor([64, 32])


@pytest.fixture(scope="module")
def drawn():
    """The skeletons' points along the ribbon, (T, n, 2) pixels, the first is in the hair."""
    scene, seed, reach = Scene(32, 64), [5, 1, 0], CAMERA_DISTANCE / FOCAL - 0.4
    motion = make_motion(np.random.default_rng([*seed, 0]), 80, reach)
    skeleton = add_ribbon(make_skeleton(motion), np.random.default_rng([*seed, 3]))
    joints = np.stack([scene.project(skeleton[name])[0] for name in RIBBON], axis=1)  # (T, 4, 2)
    share = np.linspace(0, 1, 11)[:, None]
    return np.concatenate([(1 - share) * joints[:, i, None] + share * joints[:, i + 1, None] for i in range(3)], axis=1)


def test_only_the_frames_show_it_and_the_flag_changes_nothing_else(sets, data, drawn):
    plain, (sequence, tied) = Dataset_Dance(sets / "plain", "val").sequences[0], data
    assert torch.equal(plain.poses, sequence.poses) and not (sets / "plain/ribbon.json").exists()
    assert np.allclose(tied, drawn[:, 0] / (64, 32), atol=1e-4)
    changed = (plain.frames != sequence.frames).any(dim=1)  # (T, H, W)
    pixels = np.stack(np.meshgrid(np.arange(64) + 0.5, np.arange(32) + 0.5), axis=-1)
    for t, places in enumerate(changed):
        distance = np.linalg.norm(pixels[:, :, None] - drawn[t], axis=-1).min(axis=-1)  # (H, W)
        assert places.sum() >= 8 and distance[places].max() < 3, "on the ribbon"
    for part in ("train/train_label", "test/test_label/0"):
        for path in (sets / "plain" / part).iterdir():
            assert path.read_bytes() == (sets / "ribbon" / part / path.name).read_bytes()


def test_the_angle_in_the_pixels_is_the_drawn_one(data, drawn):
    inside = drawn[..., 1:] > 0
    middle = (drawn * inside).sum(axis=1) / inside.sum(axis=1) - drawn[:, 0]  # of what the image shows
    angle = look(data[0].frames, hair_of(data))[0]
    assert np.corrcoef(angle, np.arctan2(middle[:, 0], -middle[:, 1]))[0, 1] > 0.999
    assert angle.std() > 0.3


def test_the_ribbon_is_the_process_that_it_should_be():
    still = {"head": np.zeros((20_000, 3)), "up": np.zeros((20_000, 3)) + (0, 1, 0)}
    joints = np.stack([add_ribbon(still, np.random.default_rng(0))[name] for name in RIBBON])
    parts = np.diff(joints, axis=0)
    assert np.allclose(np.linalg.norm(parts, axis=-1), 0.2)
    angles = np.arctan2(parts[..., 0], parts[..., 1])
    assert np.allclose(angles[1:, 3:], angles[:-1, :-3]), "each part three frames after the one before"
    assert angles[0].std() == pytest.approx(0.65, rel=0.05)
    kicks = angles[0][2:] - 2 * np.exp(-1 / 6) * angles[0][1:-1] + np.exp(-1 / 3) * angles[0][:-2]
    assert abs(np.corrcoef(kicks[1:], kicks[:-1])[0, 1]) < 0.03, "nothing else is left"


def test_movement_tells_the_truth_from_fog_and_from_jumps(data):
    truth, hair = data[0].frames[None], hair_of(data)[None]
    same = movement(truth, truth, hair)
    assert same["blurred"] == 0 and same["sharpness"] == same["mass"] == 1
    assert same["autocorrelation_1"] > 0.95 > same["autocorrelation_5"] and same["change"] < 8 < same["std"]
    fog = movement(truth.float().mean(dim=1, keepdim=True).expand_as(truth) / 255, truth, hair)
    assert fog["blurred"] > 0.9 and fog["sharpness"] < 0.5
    still = data[0].frames[30].expand_as(truth)
    assert movement(still, truth, hair[:, 30:31].expand_as(hair))["change"] == pytest.approx(0, abs=1e-3)
    order = torch.from_numpy(np.random.default_rng(0).permutation(80))
    jumps = movement(truth[:, order], truth[:, order], hair[:, order])
    assert abs(jumps["autocorrelation_1"]) < 0.3 and jumps["change"] > 3 * same["change"]
    none = movement(torch.zeros_like(truth), truth, hair)
    assert none["blurred"] == 1 and none["mass"] < 1e-6


def test_best_of_samples_minus_the_mean(data, monkeypatch):
    """Sample 3 of 10 is the truth, the others and the mean are one frame: a ribbon at rest."""
    def predict(model, sequences, dtype, seed=0, num_samples=0):
        assert num_samples in (0, 1, ribbon.SAMPLES)
        rest = [s.frames[:1].expand_as(s.frames) / 255 for s in sequences]
        return [torch.stack([s.frames / 255 if i == 3 or num_samples == 1 else x for i in range(max(1, num_samples))])
                for s, x in zip(sequences, rest, strict=True)]

    monkeypatch.setattr(ribbon, "predict", predict)
    use = ribbon_use(None, [data[0]], data[1], torch.float32)
    assert list(use["samples"]) == list(use["truth"])
    names = [name for name, value in use["truth"].items() if value is not None]
    assert {name: use["samples"][name] for name in names} == pytest.approx({name: use["truth"][name] for name in names})
    assert use["samples"]["best_minus_mean_5"] > 50 and use["samples"]["best_minus_mean_30"] > 50
    assert 0.1 < use["samples"]["spread"] < 90
    frames, hair = data[0].frames[None], hair_of(data)[None]
    off = (frames / 255 + 0.1)[None]
    assert best_psnr(off, frames, hair, 7) == pytest.approx(20, abs=1e-4)
    assert best_psnr(torch.cat([off, off + 0.1]), frames, hair, 7) == pytest.approx(20, abs=1e-4), "the best"
    far = frames.clone()
    far[..., 24:, :] = 0
    assert best_psnr(far[None], frames, hair, 7) == pytest.approx(100), "the legs are not scored"


def test_study_writes_the_table(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(ribbon, "SAMPLES", 2)
    flags = ["--DR", sets / "ribbon", *SMALL, "--num_epoch", 1, "--epoch_steps", 2, "--device", "cpu",
             "--pictures", "none", "--preset", "recursive"]
    run = run_inside("Trainer.py", *flags, "--save_root", tmp_path / "run")
    assert run.returncode == 0, run.stderr
    best = tmp_path / "run/best.ckpt"
    place = ["--DR", sets / "ribbon", "--save_root", tmp_path, "--device", "cpu"]
    result = run_inside("study.py", "latent", "--ckpt_path", best, *place)
    assert result.returncode == 0, result.stderr
    head, truth, row = csv.reader((tmp_path / "ribbon.csv").read_text().splitlines())
    assert head[0] == "recipe" and (truth[0], row[0]) == ("truth", str(best))
    values = dict(zip(head, truth, strict=True))
    assert values["blurred"] == "0.00" and values["spread"] == "" and values["autocorrelation_1"] > "0.95"
    assert all(np.isfinite([float(cell) for cell in row[1:]]))
    assert float(dict(zip(head, row, strict=True))["blurred"]) > 0.2, "two steps learn no ribbon"
