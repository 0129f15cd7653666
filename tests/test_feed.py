"""The plan of an epoch: windows never cross a cut, images move together."""

import numpy as np
import pytest
import torch
from conftest import noise_frames

from modules.options import parse_trainer
from modules.train.feed import gather, largest_shift, shuffled_plan, template_plan

CLIPS = [(0, 10), (10, 18), (18, 20)]  # the last is shorter than a window


def plan(epoch=0, seed=0, steps=20, batch=4, **flags):
    return shuffled_plan(CLIPS, 4, steps, batch, seed, epoch, **flags)


def test_windows_start_anywhere_and_never_cross_a_cut():
    windows = plan().windows.reshape(-1, 4)
    assert (windows.diff(dim=1) == 1).all()
    assert ((windows[:, 0] < 10) == (windows[:, 3] < 10)).all()
    assert set(windows[:, 0].tolist()) == {*range(7), *range(10, 15)}


def test_every_start_comes_once_before_any_comes_again():
    starts = plan(steps=6).windows[..., 0].flatten().tolist()  # 24 windows, 12 possible starts
    assert sorted(starts) == sorted([*range(7), *range(10, 15)] * 2)


def test_a_plan_is_a_function_of_seed_and_epoch():
    flags = {"random_start": True, "shift": (1, 2)}
    for one, other in zip(plan(3, 1, **flags), plan(3, 1, **flags), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(plan(3, 1).windows, plan(4, 1).windows)
    assert not torch.equal(plan(3, 1).windows, plan(3, 2).windows)


def test_random_starts_stay_within_their_clip():
    windows = plan(steps=200, random_start=True).windows.reshape(-1, 4)
    assert ((windows[:, 0] < 10) == (windows[:, 1] < 10)).all()
    assert set(windows[:, 0].tolist()) == set(range(18))
    assert (windows[:, 1:].diff(dim=1) == 1).all()


@pytest.mark.parametrize("flags, pixels", [
    ("", (2, 12)), ("--frame_H 64", (4, 12)), ("--frame_H 128 --frame_W 256", (8, 48)), ("--frame_W 16", (2, 3)),
    ("--shift_down 3 --frame_H 48", (4, 12)), (f"--shift_down {2**62} --frame_H 64", (64, 12)),
])
def test_shifts_grow_with_the_frame(flags, pixels):
    args = parse_trainer(["--DR", "x", "--save_root", "x", *flags.split()])
    assert largest_shift(args) == pixels
    plan(shift=pixels)


def test_template_plan_takes_the_windows_in_order():
    windows = torch.tensor([[0, 1], [2, 3], [4, 5]])
    assert template_plan(windows, steps=2, batch=2).windows.tolist() == [[[0, 1], [2, 3]], [[4, 5], [0, 1]]]


def test_gather_moves_all_images_of_a_clip_alike_and_replicates_edges():
    images = noise_frames(5, 3, 6, 8)
    clips = gather(images, torch.tensor([[0, 3], [4, 1]]), torch.tensor([[0, 0], [2, -3]]))
    assert torch.equal(clips[0], images[[0, 3]])
    padded = np.pad(images[[4, 1]].numpy(), ((0, 0), (0, 0), (2, 0), (0, 3)), mode="edge")
    assert np.array_equal(clips[1].numpy(), padded[:, :, :6, 3:])
