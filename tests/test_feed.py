"""The plan of an epoch: windows never cross a cut, images move together. The last frames of a clip's first step."""

import numpy as np
import pytest
import torch
from conftest import noise_frames

from dataloader import Dataset_Dance
from modules.options import parse_trainer
from modules.train.distributed import Ranks
from modules.train.feed import Feed, gather, largest_shift, shuffled_plan, template_plan

CLIPS = [(0, 10), (10, 18), (18, 20)]  # the last is shorter than a window


def plan(epoch=0, seed=0, steps=20, batch=4, **flags):
    return shuffled_plan(CLIPS, 4, steps, batch, seed, epoch, **flags)


def test_windows_start_anywhere_and_never_cross_a_cut():
    windows = plan().windows.reshape(-1, 5)
    assert (windows[:, 0] == windows[:, 1]).all(), "x_1 is the first frame"
    windows = windows[:, 1:]
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
    windows = plan(steps=200, random_start=True).windows.reshape(-1, 5)
    assert ((windows[:, 0] < 10) == (windows[:, 1] < 10)).all()
    assert set(windows[:, 0].tolist()) == set(range(18))
    assert (windows[:, 1:].diff(dim=1) == 1).all()
    assert torch.equal(windows[:, 1:], plan(steps=200).windows.reshape(-1, 5)[:, 1:]), "only x_1 is another"


def test_a_share_of_the_clips_takes_z_from_the_posterior(dance):
    batch = first_batch(dance, "--posterior_share 0.5")
    assert batch.from_posterior.flatten().tolist() == [True, True, False, False]
    assert batch.beta.flatten().tolist() == [1, 1, 0, 0], "the others have no KL"
    assert batch.noise[:2].any() and not batch.noise[2:].any(), "the others take the prior's mean"


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
    assert template_plan(windows, steps=2, batch=2).windows.tolist() == [[[0, 0, 1], [2, 2, 3]], [[4, 4, 5], [0, 0, 1]]]


def test_gather_moves_all_images_of_a_clip_alike_and_replicates_edges():
    images = noise_frames(5, 3, 6, 8)
    clips = gather(images, torch.tensor([[0, 3], [4, 1]]), torch.tensor([[0, 0], [2, -3]]))
    assert torch.equal(clips[0], images[[0, 3]])
    padded = np.pad(images[[4, 1]].numpy(), ((0, 0), (0, 0), (2, 0), (0, 3)), mode="edge")
    assert np.array_equal(clips[1].numpy(), padded[:, :, :6, 3:])


def first_batch(dance, flags, ranks=None, batch_size=4, epoch=0, last_frames=1):
    """A clip is x_1 and 3 frames of 16x32."""
    args = parse_trainer(["--DR", str(dance), "--save_root", "x", "--frame_H", "16", "--frame_W", "32",
                          "--train_vi_len", "3", "--batch_size", str(batch_size), "--num_epoch", "2", *flags.split()])
    feed = Feed(args, Dataset_Dance(dance, "train", 16, 32, train_vi_len=3), (4, 2, 4), ranks or Ranks(),
                torch.device("cpu"), last_frames)
    return next(feed.batches(epoch))


def test_the_last_frames_are_the_true_ones_before_the_clip_with_coarse_noise(dance):
    assert first_batch(dance, "").last is None, "x_1"
    clean = "--last_frame previous"
    plain = first_batch(dance, clean)
    assert plain.frames.shape == plain.poses.shape == (4, 3, 3, 16, 32)
    assert not torch.equal(plain.x_1, plain.frames[:, 0]), "from anywhere"
    assert torch.equal(plain.last, plain.frames[:, :1] / 255)
    template = first_batch(dance, "--preset template --batch_size 4")
    assert template.last is None and torch.equal(template.x_1, template.frames[:, 0])
    two = first_batch(dance, clean, last_frames=2)
    assert two.last.shape == (4, 2, 3, 16, 32) and two.frames.shape == two.poses.shape == plain.frames.shape
    assert torch.equal(two.last[:, 1], two.frames[:, 0] / 255) and not torch.equal(two.last[:, 0], two.last[:, 1])

    flags = "--last_frame previous --last_noise 0.2"
    noisy = first_batch(dance, flags, last_frames=2)
    for field in ("x_1", "frames", "poses", "noise"):
        assert torch.equal(getattr(two, field), getattr(noisy, field)), "the flag changes nothing else"
    noise = noisy.last - two.last
    assert noisy.last.min() >= 0 and noisy.last.max() <= 1
    inside = ((noisy.last > 0) & (noisy.last < 1)).all(dim=1)
    torch.testing.assert_close(noise[:, 0][inside], noise[:, 1][inside]), "the same in both frames"
    deviations = noise.flatten(1).std(dim=1)
    disturbed_x_1 = first_batch(dance, "--last_noise 0.2", last_frames=2)
    again = (two.x_1[:, None] / 255 + noise).clamp(0, 1)[inside[:, None].expand_as(noise)]
    torch.testing.assert_close(disturbed_x_1.last[inside[:, None].expand_as(noise)], again), "x_1 with the same noise"
    assert 0.005 < deviations.max() < 0.2 and deviations.max() > 1.5 * deviations.min(), "each clip has its own"
    assert noise.diff(dim=4).abs().mean() < noise.abs().mean() / 2, "neighbours are alike"
    assert torch.equal(noisy.last, first_batch(dance, flags, last_frames=2).last)
    assert not torch.equal(noisy.last, first_batch(dance, flags, epoch=1, last_frames=2).last)
    halves = [first_batch(dance, flags, Ranks(rank, 2), 2, last_frames=2).last for rank in (0, 1)]
    assert torch.equal(torch.stack(halves, dim=1).flatten(0, 1), noisy.last), "drawn for the whole batch"
    mixed = first_batch(dance, "--last_frame previous --last_mix 1", last_frames=2)
    away, towards_x_1 = mixed.last - two.last, mixed.x_1[:, None] / 255 - two.last
    shares = (away * towards_x_1).sum(dim=2) / towards_x_1.square().sum(dim=2)  # (4, 2, 16, 32), nan where both agree
    known = towards_x_1.abs().amin(dim=2) > 0.1
    assert shares[known].min() > -1e-3 and shares[known].max() < 1 + 1e-3
    assert (shares[known] > 0.5).any() and (shares[known] < 0.05).any(), "much of x_1 in some places, none in others"
    torch.testing.assert_close(away, towards_x_1 * shares.nan_to_num()[:, :, None], atol=1e-3, rtol=0)
    both = known.all(dim=1)
    torch.testing.assert_close(shares[:, 0][both], shares[:, 1][both], atol=1e-3, rtol=0), "the same in both frames"
    neighbours = known[..., 1:] & known[..., :-1]
    assert shares.diff(dim=-1)[neighbours].abs().mean() < shares[known].std() / 2, "neighbours are alike"
