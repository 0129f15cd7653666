"""Why the PSNR of a rollout dips: error that accumulated, poses unlike the training's, limbs that a pose does not show.

The same model predicts a sequence from its first frame alone (the rollout), again from the true frame every RESTART
frames, and from the true last frame always. x_1 and the poses stay the same, and z is the prior's mean. So the last
frame, which a learned prior sees too, is all that differs: what the second gains over the first is accumulated error,
and the rest is not.
"""

import numpy as np
import torch
from torch import Tensor

from dataloader import Dataset_Dance
from modules.data.pixels import to_float
from modules.data.sequence import Sequence
from modules.device import autocast
from modules.model.vae import VAE_Model
from modules.score.baselines import CHUNK, nearest_poses, shrink
from modules.score.metrics import PERFECT, psnr
from modules.score.predict import predict

RESTART, TOGETHER = 30, 64  # frames between two true frames; restarts predicted in one batch
STRETCH, WORST = 20, 5  # frames of a stretch; how many of the worst are shown
HUES, USUAL, ABSENT = 12, 0.05, 0.25  # hues; least share of a limb's in the median pose; share of the median: absent
ROLLOUTS = {"rollout": "rollout", "restarted": f"true frame every {RESTART} frames",
            "true_last": "true last frame always"}
CAUSES = {"accumulated": "accumulated error (dB)", "distance": "distance of the nearest training pose (levels)",
          "absent": "limb colours that the pose lacks", "change": "change of the true frame (levels)"}


def analyse(model: VAE_Model, sequence: Sequence, training: Dataset_Dance, dtype: torch.dtype) -> tuple:
    """Of a sequence with all its true frames: the rollout, a tensor (T, 3, H, W) in [0, 1]; the training frame with the
    nearest pose, a tensor (T); a dict of arrays (T-1), for frames 2 … T: the PSNR of ROLLOUTS in dB, and CAUSES.

    accumulated: dB that the restarts gain over the rollout. distance: root mean square over 2x2 pixels, levels of
    0..255. absent: see `absent_colors`. change: mean absolute difference from the true frame before, levels.
    """
    truth, poses = to_float(sequence.frames), sequence.poses
    prediction, nearest = predict(model, [sequence], dtype)[0][0], nearest_poses(poses, training.poses)
    again = [predict_again(model, sequence, dtype, every) for every in (RESTART, 1)]
    columns = {name: psnr(frames, truth[1:]).clamp(max=PERFECT)
               for name, frames in zip(ROLLOUTS, (prediction[1:], *again), strict=True)}
    columns |= {
        "accumulated": (columns["restarted"] - columns["rollout"]).round(decimals=3) + 0.0,  # no rounding, no -0
        "distance": (shrink(poses) - shrink(training.poses[nearest])).square().mean(dim=1).sqrt()[1:] * 255,
        "absent": absent_colors(poses, training.poses)[1:],
        "change": truth.diff(dim=0).abs().mean(dim=(1, 2, 3)) * 255,
    }
    return prediction, nearest, {name: values.double().numpy() for name, values in columns.items()}


@torch.no_grad()
def predict_again(model: VAE_Model, sequence: Sequence, dtype: torch.dtype, every: int) -> Tensor:
    """Frames 2 … T, (T-1, 3, H, W) in [0, 1], where the last frames are true ones at every `every`-th frame."""
    device, T, frames = next(model.parameters()).device, len(sequence.poses), []
    model.eval()
    for begin in torch.arange(0, T - 1, every).split(TOGETHER):
        places = (begin[:, None] + torch.arange(every + 1)).clamp(max=T - 1)  # (n, every + 1)
        before = (begin[:, None] + torch.arange(1 - model.last_frames, 1)).clamp(min=0)  # (n, last_frames)
        last, x_1 = (to_float(sequence.frames[i]).to(device) for i in (before, torch.zeros_like(begin)))
        with autocast(device, dtype):
            out = model.rollout(x_1, sequence.poses[places].to(device), last=last)
        frames.append(out.frames.flatten(0, 1).clamp(0, 1).cpu())
    return torch.cat(frames)[: T - 1]


def absent_colors(poses: Tensor, training_poses: Tensor) -> Tensor:
    """How many of the colours of the training poses' limbs each pose lacks: (t, 3, H, W) and (N, 3, H, W) -> (t).

    A limb that the detector missed, or that another one covers, takes its colour along. Of HUES hues those count that
    have a share of at least USUAL in the median training pose.
    """
    median = torch.cat([hues(part) for part in training_poses.split(CHUNK)]).median(dim=0).values
    usual = median >= USUAL * median.sum()
    return (hues(poses) < ABSENT * median)[:, usual].sum(dim=1)


def hues(images: Tensor) -> Tensor:
    """The sum of each hue over the pixels, weighted with how colourful they are: (n, 3, H, W) -> (n, HUES). A colour
    that is blended with white, grey or black keeps its hue."""
    red, green, blue = to_float(images).unbind(dim=1)
    x, y = 2 * red - green - blue, 3**0.5 * (green - blue)  # on the plane across the grey axis
    place = (torch.atan2(y, x) * HUES / (2 * torch.pi)).round().long() % HUES
    return x.new_zeros(len(x), HUES).scatter_add_(1, place.flatten(1), x.hypot(y).flatten(1))


def worst_stretches(values: np.ndarray) -> list[slice]:
    """The WORST stretches of STRETCH values with the lowest means, at least STRETCH apart, the lowest first."""
    length, worst = min(STRETCH, len(values)), []
    means = np.convolve(values, np.full(length, 1 / length), "valid")
    while len(worst) < WORST and np.isfinite(means).any():
        begin = int(np.nanargmin(means))
        means[max(0, begin - 2 * length + 1) : begin + 2 * length] = np.nan
        worst.append(slice(begin, begin + length))
    return worst


def describe(columns: dict[str, np.ndarray], stretches: list[slice]) -> list[str]:
    """Sentences made from the numbers: one on the rollouts, one on the correlations, one on every stretch."""
    psnr, sentences = columns["rollout"], []
    means = (f"{label} {columns[name].mean():.2f} dB" for name, label in ROLLOUTS.items())
    with np.errstate(invalid="ignore"):
        alike = [f"{label} {np.corrcoef(columns[name], -psnr)[0, 1]:.2f}" for name, label in CAUSES.items()]
    for stretch in stretches:
        parts = []
        for name, label in CAUSES.items():
            values, here = columns[name], columns[name][stretch].mean()
            share = (values < here).mean()
            parts.append(f"{label} {here:.2f} (mean {values.mean():.2f}; {share:.0%} of frames have less)")
        sentences.append(f"Frames {stretch.start + 2} to {stretch.stop + 1}: {psnr[stretch].mean():.2f} dB, "
                         f"{psnr.mean() - psnr[stretch].mean():.2f} dB below the mean; {', '.join(parts)}.")
    return [f"Mean PSNR: {', '.join(means)}.",
            f"Correlation with the error, minus the PSNR (nan: constant): {', '.join(alike)}.", *sentences]
