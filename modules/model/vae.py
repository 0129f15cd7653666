"""VAE_Model: wires the five boxes of one architecture; one step, one rollout.

    log p(x|c) >= E_{q(z|x,c)} log p(x|z,c) - KL(q(z|x,c) || p(z|c))

c = the pose P_t, the last frame, and x_1 where the architecture uses it. Training, validation and testing all call
`rollout`. The objectives are below it.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.data.pixels import frame_mse, to_float
from modules.model import ARCHITECTURES, PRIORS
from modules.model.layers import gaussian_kl, reparameterise

MSE_FLOOR = 1e-6  # 60 dB
SMALLEST_SIDE = 4  # of the smallest feature map, see levels_for
POSE_PIXELS = 64 * 32 * 64  # of a clip's frames whose pose features are computed at once, outside the recursion


class Rollout(NamedTuple):
    """What a rollout over T pictures gives for frames 2 … T."""

    frames: Tensor  # (B, T-1, 3, H, W) float32, as the Generator gives them
    kl: Tensor  # (B, T-1, *latent) nats per latent, float32; zero for clips without a posterior
    state: Any = None  # of the prior after the last frame, see VAE_Model.prior_step


class VAE_Model(nn.Module):
    """The conditional VAE of the course: x_t from the last frame, the pose P_t and a latent z.

    arch: "template" (the course's) or "multiscale". F_dim, L_dim, N_dim, D_out_dim: channels of frame features, pose
    features, latent and fused features. prior: "standard", N(0, I), or "learned", p(z | last frame, pose) as in
    Denton & Fergus 2018. levels: resolutions of the features, each half of the one before; by default the fewest that
    the architecture has. last_maps: of multi-scale models of earlier versions, see its Decoder_Fusion.
    ValueError for other names and numbers.
    """

    recurrent_prior = False  # whether `prior_step` makes use of its state

    def __init__(
        self,
        arch: str = "template",
        F_dim: int = 128,
        L_dim: int = 32,
        N_dim: int = 12,
        D_out_dim: int = 192,
        prior: str = "standard",
        levels: int | None = None,
        last_maps: int = 0,
    ):
        super().__init__()
        if arch not in ARCHITECTURES or prior not in PRIORS:
            raise ValueError(f"arch {arch!r} and prior {prior!r}: expected one of {ARCHITECTURES} and of {PRIORS}")
        boxes = importlib.import_module(f"modules.model.{arch}")
        levels = boxes.LEVELS[0] if levels is None else levels
        if levels not in boxes.LEVELS:
            raise ValueError(f"{levels} levels: expected {boxes.LEVELS[0]} … {boxes.LEVELS[-1]} of {arch}")
        self.config = {
            "arch": arch, "F_dim": F_dim, "L_dim": L_dim, "N_dim": N_dim, "D_out_dim": D_out_dim, "prior": prior,
            "levels": levels, "last_maps": last_maps,
        }
        learned = prior == "learned"
        for name, box in boxes.build(F_dim, L_dim, N_dim, D_out_dim, levels, last_maps, learned).items():
            setattr(self, name, box)
        self.latent_scale = 2 ** (levels - 1)  # of a frame's side over the latent's
        self.sees_first = boxes.SEES_FIRST  # whether x_1's features are used
        self.sees_last = boxes.SEES_LAST or last_maps > 0 or learned  # whether the last frame's are

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape of z for one frame of height x width pixels, multiples of `latent_scale`; ValueError for others."""
        if height % self.latent_scale or width % self.latent_scale:
            raise ValueError(f"frames of {height}x{width}; expected multiples of {self.latent_scale}")
        return self.config["N_dim"], height // self.latent_scale, width // self.latent_scale

    def rollout(
        self,
        first: Tensor,
        poses: Tensor,
        *,
        start: Tensor | None = None,
        truth: Tensor | None = None,
        noise: Tensor | None = None,
        posterior_clips: int = 0,
        z_from: str = "posterior",
        feed_truth: bool = False,
        state: Any = None,
        step: Callable | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Rollout:
        """Generate frames 2 … T, each from the last generated one, its own pose and z.

        first: (B, 3, H, W), the given frame x_1. poses: (B, T, 3, H, W); poses[:, t] belongs to frame t, poses[:, 0]
        (of x_1) is not used. Pictures are uint8 or float [0, 1].
        start: (B, 3, H, W), the last frame of the first step; x_1 by default.
        truth: (B, T, 3, H, W), the true frames, for the posterior and for teacher forcing (training only).
        noise: (B, T-1, *latent_shape) from N(0, I); None takes the means of the latent's distributions.
        posterior_clips: so many leading clips have a posterior: their KL is given, and z_from says whether their z is
        drawn from it or, like that of the others, from the prior.
        feed_truth: teacher forcing: after predicting frame t, feed the true frame t.
        state: of the prior, where the clip goes on from an earlier rollout.
        step: stands in for `self.step`, which it records. progress: called now and then with the number of frames
        generated since the last call.
        """
        if truth is None and (posterior_clips or feed_truth):
            raise ValueError("posterior_clips and feed_truth need the true frames")
        first, step = to_float(first), step or self.step
        last_frame = first if start is None else to_float(start)
        latent = self.latent_shape(*first.shape[-2:])
        if feed_truth and not self.recurrent_prior:
            return self._all_steps_at_once(first, poses, last_frame, truth, noise, posterior_clips, z_from)
        first_features = self.frame_transformation(first) if self.sees_first else None
        frames, kl, n = [], [], posterior_clips
        # from here on time comes first: (T, B, …)
        poses, noise, truth = (x if x is None else x.transpose(0, 1) for x in (poses, noise, truth))
        chunk = max(1, POSE_PIXELS // (first.shape[-2] * first.shape[-1]))  # frames
        for begin in range(1, len(poses), chunk):
            count = min(chunk, len(poses) - begin)
            pose_features = over_time(self.label_transformation, to_float(poses[begin : begin + count]))
            posteriors = [None] * count  # or mu and logvar (n, *latent)
            if n:
                true_features = over_time(self.frame_transformation, to_float(truth[begin : begin + count, :n]))
                their_poses = map_tensors(lambda x: x[:, :n], pose_features)
                posteriors = each_step(over_time(self.Gaussian_Predictor, true_features, their_poses)[1:])
            steps = zip(range(begin, begin + count), each_step(pose_features), posteriors, strict=True)
            for t, pose, posterior in steps:
                its_noise = None if noise is None else noise[t - 1]
                last_frame, kl_t, state = step(
                    first, first_features, last_frame, pose, its_noise, posterior, state, z_from=z_from
                )
                frames.append(last_frame)
                kl += [kl_t] if n else []
                last_frame = to_float(truth[t]) if feed_truth else last_frame
            if progress:
                progress(count)
        kl = torch.stack(kl, dim=1) if n else first.new_zeros(1, 1, 1, 1, 1).expand(0, len(frames), *latent)
        return Rollout(torch.stack(frames, dim=1), pad_clips(kl, len(first)), state)

    def step(
        self, first: Tensor, first_features: Any, last_frame: Tensor, pose: Any, noise: Tensor | None,
        posterior: tuple[Tensor, Tensor] | None, state: Any, z_from: str = "posterior",
    ) -> tuple[Tensor, Tensor | None, Any]:
        """One frame (B, 3, H, W) from the last one, the KL (n, *latent) of the n leading clips whose posterior, mu and
        logvar, is given, and the prior's next state. pose, first_features: features."""
        last_features = first_features if last_frame is first else None  # as it is in a clip's first step
        if last_features is None and self.sees_last:
            last_features = self.frame_transformation(last_frame)
        prior_mu, prior_logvar, state = self.prior_step(last_features, pose, state)
        if prior_mu is None:  # N(0, I)
            prior_mu = prior_logvar = first.new_zeros(len(first), *self.latent_shape(*first.shape[-2:]))
        z, kl = reparameterise(prior_mu, prior_logvar, noise), None
        if posterior:
            mu, logvar = posterior
            n = len(mu)
            kl = gaussian_kl(mu, logvar, prior_mu[:n], prior_logvar[:n])
            if z_from == "posterior":
                z = torch.cat([reparameterise(mu, logvar, None if noise is None else noise[:n]), z[n:]])
        fused = self.Decoder_Fusion(last_features, pose, z, first_features)
        return self.Generator(fused, last_frame, first).float(), kl, state

    def prior_step(self, last_features: Any, pose: Any, state: Any) -> tuple[Tensor | None, Tensor | None, Any]:
        """mu and logvar (B, *latent) of p(z_t | c), None for N(0, I), and the prior's next state.

        state: None in a clip's first step, then what the step before returned. A recurrent prior (the LSTM of Denton &
        Fergus 2018) keeps its memory there and sets `recurrent_prior`.
        """
        if self.prior is None:
            return None, None, state
        return *self.prior(last_features, pose)[1:], state

    def _all_steps_at_once(
        self, first: Tensor, poses: Tensor, start: Tensor, truth: Tensor, noise: Tensor | None, posterior_clips: int,
        z_from: str,
    ) -> Rollout:
        """A rollout that is fed the true frames. No step waits for the one before, so every step is a clip of two
        frames, and all of them are one batch."""
        steps = poses.shape[1] - 1
        starts = torch.cat([start[:, None], to_float(truth[:, 1:-1])], dim=1)
        firsts = first[:, None].expand(-1, steps, -1, -1, -1)
        # of a clip of two frames only the second one's pose and truth are used
        poses, truth = (x[:, 1:].flatten(0, 1)[:, None].expand(-1, 2, -1, -1, -1) for x in (poses, truth))
        noise = None if noise is None else noise.flatten(0, 1)[:, None]
        frames, kl, _ = self.rollout(
            firsts.flatten(0, 1), poses, start=starts.flatten(0, 1), truth=truth, noise=noise,
            posterior_clips=posterior_clips * steps, z_from=z_from,
        )
        return Rollout(*(x.unflatten(0, (-1, steps))[:, :, 0] for x in (frames, kl)))


def levels_for(arch: str, height: int, width: int) -> int:
    """The levels of a new model for frames of height x width pixels: as many as leave the smallest map a short side of
    at least SMALLEST_SIDE pixels, so 4x8 at 32x64, 64x128 and 128x256; no more than both sides can be halved, and no
    fewer than the architecture's fewest."""
    possible = importlib.import_module(f"modules.model.{arch}").LEVELS

    def fits(levels: int) -> bool:
        scale = 2 ** (levels - 1)
        return height % scale == width % scale == 0 and min(height, width) >= SMALLEST_SIDE * scale

    return max([possible[0], *filter(fits, possible)])


def pad_clips(kl: Tensor, clips: int) -> Tensor:
    """(n, T-1, *latent) -> (clips, T-1, *latent), zero for the clips after the first n."""
    if not len(kl):  # zeros that take no memory
        return kl.new_zeros([1] * kl.ndim).expand(clips, *kl.shape[1:])
    return F.pad(kl, [0, 0] * (kl.ndim - 1) + [0, clips - len(kl)])


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply a function to a tensor, or to every tensor of a list or tuple."""
    return function(value) if isinstance(value, Tensor) else type(value)(map_tensors(function, v) for v in value)


def each_step(features: Any) -> list:
    """Features (T, B, …), or lists of such, as a list of T, one for every time step."""
    if isinstance(features, Tensor):
        return list(features.unbind())
    return [type(features)(step) for step in zip(*map(each_step, features), strict=True)]


def over_time(box: Callable, *inputs: Any) -> Any:
    """Apply a box to every frame of every clip in one batch: inputs and outputs are (T, B, …), or lists of such."""
    example = inputs[0] if isinstance(inputs[0], Tensor) else inputs[0][0]
    out = box(*(map_tensors(lambda x: x.flatten(0, 1), value) for value in inputs))
    return map_tensors(lambda x: x.unflatten(0, example.shape[:2]), out)


def frame_loss(objective: str, frames: Tensor, target: Tensor, kl: Tensor, beta: Tensor | float) -> Tensor:
    """The negative bound of every frame, up to a constant: frames and target (B, T, 3, H, W), kl (B, T) -> (B, T).

    "mse": the course's mse + beta * kl, the mean over a frame's values and the sum over its latents.
    "calibrated": D/2 * log(mse) + beta * kl, a Gaussian decoder with its best variance (Rybkin, Daniilidis and Levine
    2021), given in units of D/2 so that the gradient's size does not depend on the frame size; D = 3 * H * W values.
    MSE_FLOOR bounds the gradient of frames that are almost perfect.
    """
    mse, values = frame_mse(frames, target), frames[0, 0].numel()
    if objective == "mse":
        return mse + beta * kl
    return torch.log(mse + MSE_FLOOR) + beta * kl * (2 / values)
