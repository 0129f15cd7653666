"""VAE_Model: wires the five boxes of one architecture; one step, one rollout.

    log p(x|c) >= E_{q(z|x,c)} log p(x|z,c) - KL(q(z|x,c) || p(z|c))

c = the pose P_t and the last frame. Training, validation and testing all call `rollout`. Objectives are below it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from modules import template
from modules.layers import gaussian_kl, reparameterise
from modules.pixels import to_float

POSE_CHUNK = 64  # frames whose pose features are computed in one batch, outside the recursion


class Rollout(NamedTuple):
    """What a rollout over T pictures gives for frames 2 … T."""

    frames: Tensor  # (B, T-1, 3, H, W) float32, as the Generator gives them
    kl: Tensor | None  # (B, T-1, *latent) nats per latent, float32; None without the true frames


class VAE_Model(nn.Module):
    """The conditional VAE of the course: x_t from the last frame, the pose P_t and a latent z.

    arch: "template". F_dim, L_dim, N_dim, D_out_dim: channels of frame features, pose features, latent and fusion.
    """

    def __init__(
        self, arch: str = "template", F_dim: int = 128, L_dim: int = 32, N_dim: int = 12, D_out_dim: int = 192
    ):
        super().__init__()
        self.config = {"arch": arch, "F_dim": F_dim, "L_dim": L_dim, "N_dim": N_dim, "D_out_dim": D_out_dim}
        self.frame_transformation = template.RGB_Encoder(F_dim)
        self.label_transformation = template.Label_Encoder(L_dim)
        self.Gaussian_Predictor = template.Gaussian_Predictor(F_dim, L_dim, N_dim)
        self.Decoder_Fusion = template.Decoder_Fusion(F_dim, L_dim, N_dim, D_out_dim)
        self.Generator = template.Generator(D_out_dim)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape of z for one frame of height x width pixels."""
        return self.config["N_dim"], height, width

    def step(self, last_frame: Tensor, pose_features: Tensor, z: Tensor, first_features: Tensor | None) -> Tensor:
        """p(x_t | z, x_{t-1}, P_t): one next frame (B, 3, H, W), float32."""
        last_features = self.frame_transformation(last_frame)
        return self.Generator(self.Decoder_Fusion(last_features, pose_features, z, first_features)).float()

    def rollout(
        self,
        first: Tensor,
        poses: Tensor,
        *,
        truth: Tensor | None = None,
        noise: Tensor | None = None,
        latent: str = "prior",
        feed_truth: Tensor | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Rollout:
        """Generate frames 2 … T, each from the last generated one, its own pose and z.

        first: (B, 3, H, W), the given frame x_1. poses: (B, T, 3, H, W); poses[:, t] belongs to frame t, poses[:, 0]
        (of x_1) is not used. Pictures are uint8 or float [0, 1].
        truth: (B, T, 3, H, W), the true frames, for the posterior and its KL (training only).
        noise: (B, T-1, *latent_shape) from N(0, I); None takes the mean of the latent's distribution.
        latent: draw z from the "prior" or the "posterior" (needs truth).
        feed_truth: (B, T-1) bool, teacher forcing: after predicting frame t, feed the true frame t instead.
        progress: called now and then with the number of frames generated since the last call.
        """
        if truth is None and (latent == "posterior" or feed_truth is not None):
            raise ValueError("latent='posterior' and feed_truth need the true frames")
        last_frame = to_float(first)
        first_features = None
        frames, kl = [], []
        for start in range(1, poses.shape[1], POSE_CHUNK):
            part = slice(start, start + POSE_CHUNK)
            chunk = to_float(poses[:, part])
            pose_features = over_time(self.label_transformation, chunk)
            chunk_noise = noise[:, start - 1 : start - 1 + POSE_CHUNK] if noise is not None else None
            z = self._prior(chunk, chunk_noise)
            if truth is not None:
                frame_features = over_time(self.frame_transformation, to_float(truth[:, part]))
                inputs = [frame_features, pose_features] + ([chunk_noise] if chunk_noise is not None else [])
                posterior_z, mu, logvar = over_time(self.Gaussian_Predictor, *inputs)
                z = posterior_z if latent == "posterior" else z
                kl.append(gaussian_kl(mu, logvar, None, None))
            for i in range(chunk.shape[1]):
                frame = self.step(last_frame, pose_features[:, i], z[:, i], first_features)
                frames.append(frame)
                last_frame = frame
                if feed_truth is not None:
                    fed = feed_truth[:, start - 1 + i, None, None, None]
                    last_frame = torch.where(fed, to_float(truth[:, start + i]), frame)
            if progress:
                progress(chunk.shape[1])
        return Rollout(torch.stack(frames, dim=1), torch.cat(kl, dim=1) if kl else None)

    def _prior(self, chunk: Tensor, noise: Tensor | None) -> Tensor:
        """z of the standard prior N(0, I) for a chunk of poses (B, T, 3, H, W)."""
        mu = chunk.new_zeros(*chunk.shape[:2], *self.latent_shape(*chunk.shape[-2:]))
        return reparameterise(mu, mu, noise)


def over_time(box: Callable, *inputs: Tensor):
    """Apply a box to every frame of every clip in one batch: inputs and outputs are (B, T, …)."""
    B, T = inputs[0].shape[:2]
    out = box(*(x.flatten(0, 1) for x in inputs))
    return tuple(x.unflatten(0, (B, T)) for x in out) if isinstance(out, tuple) else out.unflatten(0, (B, T))


def frame_loss(objective: str, mse: Tensor, kl: Tensor, beta: float, values: int) -> Tensor:
    """The negative bound of every frame, up to a constant: mse and kl (B, T) -> (B, T).

    "mse": the course's mse + beta * kl, the mean over a frame's values and the sum over its latents.
    "calibrated": values/2 * log(mse) + beta * kl, a Gaussian decoder with its best variance (Rybkin, Daniilidis and
    Levine 2021), given in units of values/2 so that the gradient's size does not depend on the frame size.
    values: D = 3 * H * W.
    """
    if objective == "mse":
        return mse + beta * kl
    return torch.log(mse + 1e-8) + beta * kl * (2 / values)
