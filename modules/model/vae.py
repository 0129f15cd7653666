"""VAE_Model: wires the five boxes of one architecture; one step, one rollout.

    log p(x|c) >= E_{q(z|x,c)} log p(x|z,c) - KL(q(z|x,c) || p(z|c))

c = the pose P_t, the last frame, and x_1 where the architecture uses it. Training, validation and testing all call
`rollout`. The two objectives are below it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modules.data.pixels import to_float
from modules.graphs import Graphed
from modules.model import multiscale, template
from modules.model.layers import gaussian_kl, reparameterise
from modules.runtime import InputError

ARCHITECTURES = ("template", "multiscale")
PRIORS = ("standard", "learned")
MSE_FLOOR = 1e-6  # 60 dB
POSE_CHUNK = 64  # frames whose pose features are computed in one batch, outside the recursion


class Rollout(NamedTuple):
    """What a rollout over T pictures gives for frames 2 … T."""

    frames: Tensor  # (B, T-1, 3, H, W) float32, as the Generator gives them
    kl: Tensor | None  # (n, T-1, *latent) nats per latent of the first n clips, float32; None without the true frames


class VAE_Model(nn.Module):
    """The conditional VAE of the course: x_t from the last frame, the pose P_t and a latent z.

    arch: "template" (the course's) or "multiscale". F_dim, L_dim, N_dim, D_out_dim: channels of frame features, pose
    features, latent and fused features. prior: "standard", N(0, I), or "learned", p(z | last frame, pose) as in
    Denton & Fergus 2018.
    """

    def __init__(
        self,
        arch: str = "template",
        F_dim: int = 128,
        L_dim: int = 32,
        N_dim: int = 12,
        D_out_dim: int = 192,
        prior: str = "standard",
    ):
        super().__init__()
        if arch not in ARCHITECTURES or prior not in PRIORS:
            raise ValueError(f"arch {arch!r} and prior {prior!r}: expected one of {ARCHITECTURES} and of {PRIORS}")
        self.config = {
            "arch": arch, "F_dim": F_dim, "L_dim": L_dim, "N_dim": N_dim, "D_out_dim": D_out_dim, "prior": prior
        }
        if arch == "template":
            self.frame_transformation = template.RGB_Encoder(F_dim)
            self.label_transformation = template.Label_Encoder(L_dim)
            self.Gaussian_Predictor = template.Gaussian_Predictor(F_dim, L_dim, N_dim)
            self.Decoder_Fusion = template.Decoder_Fusion(F_dim, L_dim, N_dim, D_out_dim)
            self.Generator = template.Generator(D_out_dim)
            self.prior = template.Gaussian_Predictor(F_dim, L_dim, N_dim) if prior == "learned" else None
        else:
            self.frame_transformation = multiscale.RGB_Encoder(F_dim)
            self.label_transformation = multiscale.Label_Encoder(L_dim, D_out_dim)
            self.Gaussian_Predictor = multiscale.Gaussian_Predictor(F_dim, D_out_dim, N_dim, informed=True)
            self.Decoder_Fusion = multiscale.Decoder_Fusion(F_dim, N_dim, D_out_dim)
            self.Generator = multiscale.Generator(D_out_dim)
            self.prior = (
                multiscale.Gaussian_Predictor(F_dim, D_out_dim, N_dim, informed=False) if prior == "learned" else None
            )
        self.latent_scale = 1 if arch == "template" else multiscale.SCALE
        self.sees_first = arch == "multiscale"  # whether x_1's features are used

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape of z for one frame of height x width pixels. InputError for a size that the architecture can't take."""
        if height % self.latent_scale or width % self.latent_scale:
            raise InputError(
                f"frames of {height}x{width}: --arch multiscale expects a height and a width that are multiples of "
                f"{self.latent_scale}"
            )
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
        feed_truth: Tensor | bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Rollout:
        """Generate frames 2 … T, each from the last generated one, its own pose and z.

        first: (B, 3, H, W), the given frame x_1. poses: (B, T, 3, H, W); poses[:, t] belongs to frame t, poses[:, 0]
        (of x_1) is not used. Pictures are uint8 or float [0, 1].
        start: (B, 3, H, W), the last frame of the first step; x_1 by default.
        truth: (B, T, 3, H, W), the true frames, for the posterior and its KL (training only).
        noise: (B, T-1, *latent_shape) from N(0, I); None takes the means of the latent's distributions.
        posterior_clips: so many leading clips draw z from the posterior (needs truth), the others from the prior; the
        KL is given for these clips, or for all if it is 0.
        feed_truth: (B, T-1) bool, or one for all, teacher forcing: after predicting frame t, feed the true frame t.
        progress: called now and then with the number of frames generated since the last call.
        """
        if truth is None and (posterior_clips or feed_truth is not False):
            raise ValueError("posterior_clips and feed_truth need the true frames")
        if feed_truth is True:
            return self._forced_rollout(first, poses, first if start is None else start, truth, noise, posterior_clips)
        first = to_float(first)
        last_frame = first if start is None else to_float(start)
        first_features = self.frame_transformation(first) if self.sees_first else None
        self.latent_shape(*first.shape[-2:])  # says so if it can't take this size
        n = posterior_clips or len(first)
        frames, kl = [], []
        # from here on time comes first: (T, B, …)
        poses, noise, truth = (x if x is None else x.transpose(0, 1) for x in (poses, noise, truth))
        # without gradients, and on a GPU, one step is recorded and replayed; training records its whole update instead
        step = Graphed(self._step, enabled=first.is_cuda and not torch.is_grad_enabled())
        for begin in range(1, len(poses), POSE_CHUNK):
            pose_features = over_time(self.label_transformation, to_float(poses[begin : begin + POSE_CHUNK]))
            count = min(POSE_CHUNK, len(poses) - begin)
            posteriors = [None] * count
            if truth is not None:
                true_features = over_time(self.frame_transformation, to_float(truth[begin : begin + POSE_CHUNK, :n]))
                their_poses = map_tensors(lambda x: x[:, :n], pose_features)
                posteriors = each_step(over_time(self.Gaussian_Predictor, true_features, their_poses)[1:])  # mu, logvar
            steps = zip(range(begin, begin + count), each_step(pose_features), posteriors, strict=True)
            for t, pose, posterior in steps:
                last_frame, kl_t = step(
                    first, first_features, last_frame, pose, None if noise is None else noise[t - 1], posterior,
                    posterior_clips=posterior_clips,
                )
                frames.append(last_frame)
                kl += [] if kl_t is None else [kl_t]
                if feed_truth is not False:
                    last_frame = torch.where(feed_truth[:, t - 1, None, None, None], to_float(truth[t]), last_frame)
            if progress:
                progress(count)
        return Rollout(torch.stack(frames, dim=1), torch.stack(kl, dim=1) if kl else None)

    def _forced_rollout(
        self, first: Tensor, poses: Tensor, start: Tensor, truth: Tensor, noise: Tensor | None, posterior_clips: int
    ) -> Rollout:
        """A rollout that is always fed the true frame. No step waits for the one before, so every step is a clip of two
        frames, all in one batch."""
        steps = poses.shape[1] - 1
        starts = torch.cat([to_float(start)[:, None], to_float(truth[:, 1:-1])], dim=1)
        firsts = first[:, None].expand(-1, steps, -1, -1, -1)
        poses, truth = (x[:, 1:].flatten(0, 1)[:, None].expand(-1, 2, -1, -1, -1) for x in (poses, truth))  # 2nd counts
        frames, kl = self.rollout(
            firsts.flatten(0, 1), poses, start=starts.flatten(0, 1), truth=truth,
            noise=None if noise is None else noise.flatten(0, 1)[:, None], posterior_clips=posterior_clips * steps,
        )
        return Rollout(frames.unflatten(0, (-1, steps))[:, :, 0], kl.unflatten(0, (-1, steps))[:, :, 0])

    def _step(
        self, first: Tensor, first_features: Any, last_frame: Tensor, pose: Any, noise: Tensor | None,
        posterior: tuple[Tensor, Tensor] | None, posterior_clips: int,
    ) -> tuple[Tensor, Tensor | None]:
        """One frame (B, 3, H, W) from the last one, and the KL (n, *latent) of the clips that the posterior (mu and
        logvar) is given for. posterior_clips: so many draw z from it. pose, first_features: features."""
        last_features = self.frame_transformation(last_frame)
        if self.prior:
            prior_mu, prior_logvar = self.prior(last_features, pose)[1:]
        else:
            prior_mu = prior_logvar = first.new_zeros(len(first), *self.latent_shape(*first.shape[-2:]))  # N(0, I)
        z, kl = reparameterise(prior_mu, prior_logvar, noise), None
        if posterior:
            mu, logvar = posterior
            kl = gaussian_kl(mu, logvar, prior_mu[: len(mu)], prior_logvar[: len(mu)])
            if posterior_clips:
                its_noise = None if noise is None else noise[:posterior_clips]
                z = torch.cat([reparameterise(mu, logvar, its_noise), z[posterior_clips:]])
        fused = self.Decoder_Fusion(last_features, pose, z, first_features)
        return self.Generator(fused, last_frame, first).float(), kl


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


def frame_loss(objective: str, mse: Tensor, kl: Tensor, beta: float, values: int) -> Tensor:
    """The negative bound of every frame, up to a constant: mse and kl (B, T) -> (B, T).

    "mse": the course's mse + beta * kl, the mean over a frame's values and the sum over its latents.
    "calibrated": values/2 * log(mse) + beta * kl, a Gaussian decoder with its best variance (Rybkin, Daniilidis and
    Levine 2021), given in units of values/2 so that the gradient's size does not depend on the frame size.
    values: D = 3 * H * W. MSE_FLOOR bounds the gradient of frames that are almost perfect.
    """
    if objective == "mse":
        return mse + beta * kl
    return torch.log(mse + MSE_FLOOR) + beta * kl * (2 / values)
