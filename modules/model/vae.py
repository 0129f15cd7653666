"""VAE_Model: the networks of one architecture; one step, one rollout; the loss.

    log p(x|c) >= E_{q(z|x,c)} log p(x|z,c) - KL(q(z|x,c) || p(z|c))

c = the pose P_t, the last frames, and x_1 where the architecture uses it. Training, validation and testing all call
`rollout`.
"""

import importlib
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modules.data.pixels import frame_mse, to_float
from modules.model import ARCHITECTURES, PRIORS
from modules.model.layers import gaussian_kl, reparameterise

MSE_FLOOR = 1e-6  # 60 dB
FED_RANGE = (-1.0, 2.0)  # of frames that are fed back, if not `bounded`: else an untrained network grows to infinity


class Rollout(NamedTuple):
    """What a rollout over T images gives for frames 2 … T."""

    frames: Tensor  # (B, T-1, 3, H, W) float32, as the Generator gives them
    kl: Tensor | None  # (B, T-1, *latent) float32, nats per latent; None without the true frames


def architecture(name: str) -> ModuleType:
    """The module of one of ARCHITECTURES, see modules/model/__init__.py."""
    return importlib.import_module(f"modules.model.{name}")


class VAE_Model(nn.Module):
    """The conditional VAE of the course: x_t from the last frame, the pose P_t and a latent z.

    arch: "template" (the course's) or "multiscale". F_dim, L_dim, N_dim, D_out_dim: channels of frame features, pose
    features, latent and fused features. prior: "standard", N(0, I); "learned", p(z | last frame, pose) as in
    Denton & Fergus 2018; "learned2", of the last two frames. levels: resolutions of the features, each half of the one
    before; by default the fewest that the architecture can have. ValueError for other names and numbers.
    """

    def __init__(
        self, arch: str = "template", F_dim: int = 128, L_dim: int = 32, N_dim: int = 12, D_out_dim: int = 192,
        prior: str = "standard", levels: int | None = None,
    ):
        super().__init__()
        if arch not in ARCHITECTURES or prior not in PRIORS:
            raise ValueError(f"VAE_Model(arch={arch!r:.60}, prior={prior!r:.60}): expected one of {ARCHITECTURES} and "
                             f"of {*PRIORS,}: VAE_Model('template', F_dim=128, L_dim=32, N_dim=12, D_out_dim=192), or "
                             "VAE_Model.from_checkpoint(path)")
        networks = architecture(arch)
        levels = networks.LEVELS[0] if levels is None else levels
        if levels not in networks.LEVELS:
            raise ValueError(f"{levels} levels: expected {networks.LEVELS[0]} … {networks.LEVELS[-1]} of {arch}")
        self.config = {
            "arch": arch, "F_dim": F_dim, "L_dim": L_dim, "N_dim": N_dim, "D_out_dim": D_out_dim, "prior": prior,
            "levels": levels,
        }
        for name, network in networks.build(F_dim, L_dim, N_dim, D_out_dim, levels, PRIORS[prior]).items():
            setattr(self, name, network)
        self.joined = networks.joined  # the features of the last frames as one frame's, with all their channels
        self.adamw_networks = networks.ADAMW_NETWORKS  # see build_optimizers
        self.latent_scale = 2 ** (levels - 1)  # of a frame's side over the latent's
        self.uses_x_1 = networks.USES_X_1  # whether x_1's features are used
        self.bounded = False  # whether frames that are fed back are clamped to [0, 1]; not in the template
        self.uses_last = networks.USES_LAST or self.prior is not None  # whether the last frames' features are used
        self.last_frames = max(1, PRIORS[prior])  # how many last frames there are

    @classmethod
    def from_checkpoint(cls, path: str) -> "VAE_Model":
        """The model of a checkpoint, on the CPU; its `frame_size` is (H, W) in pixels. InputError where it is none."""
        checkpoint = importlib.import_module("modules.model.checkpoint")  # which needs this module
        model, model.frame_size = checkpoint.model_from_checkpoint(checkpoint.load_checkpoint(path), path)
        return model.eval()

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape of z for one frame of height x width pixels, multiples of `latent_scale`; ValueError for others."""
        if height % self.latent_scale or width % self.latent_scale:
            raise ValueError(f"frames of {height}x{width}; expected multiples of {self.latent_scale}")
        return self.config["N_dim"], height // self.latent_scale, width // self.latent_scale

    def rollout(
        self, x_1: Tensor, poses: Tensor, *, last: Tensor | None = None, truth: Tensor | None = None,
        noise: Tensor | None = None, from_posterior: Tensor | None = None, teacher_forcing: bool = False,
    ) -> Rollout:
        """Generate frames 2 … T, each from the last frame, its pose and z.

        x_1: (B, 3, H, W), the given frame. poses: (B, T, 3, H, W); poses[:, t] belongs to frame t, poses[:, 0] (of x_1)
        is not used. Images are uint8 or float [0, 1].
        last: (B, K, 3, H, W), the K = last_frames frames before the first step, in order; by default all are x_1.
        truth: (B, T, 3, H, W), the true frames: in training, for the posterior, the KL and teacher forcing.
        noise: (B, T-1, *latent_shape) from N(0, I); None takes the mean of the latent's distribution.
        from_posterior: (B, 1, 1, 1) bool, whether a clip's z is the posterior's; else, and by default, the prior's.
        teacher_forcing: the last frame of a step is the true one, not the generated one.
        """
        if truth is None and (teacher_forcing or from_posterior is not None):
            raise ValueError("teacher_forcing and from_posterior need the true frames")
        x_1, truth = to_float(x_1), None if truth is None else to_float(truth)
        fed_range = (0, 1) if self.bounded else FED_RANGE
        reference = self.frame_transformation(x_1) if self.uses_x_1 else None
        if last is None or not self.uses_last:  # the last frames are x_1
            seen = [reference if self.uses_x_1 else self.frame_transformation(x_1)] * self.last_frames
        else:
            seen = [self.frame_transformation(frame.clamp(*fed_range)) for frame in to_float(last).unbind(dim=1)]
        frames, kl = [], []
        for t in range(1, poses.shape[1]):
            true_frame = None if truth is None else truth[:, t]
            z_noise = None if noise is None else noise[:, t - 1]
            if t > 1 and self.uses_last:
                fed = truth[:, t - 1] if teacher_forcing else frames[-1].clamp(*fed_range)
                seen = [*seen[1:], self.frame_transformation(fed)]
            frame, kl_t = self.step(x_1, reference, seen, poses[:, t], true_frame, z_noise, from_posterior)
            frames.append(frame)
            kl.append(kl_t)
        return Rollout(torch.stack(frames, dim=1), None if truth is None else torch.stack(kl, dim=1))

    forward = rollout

    def step(
        self, x_1: Tensor, reference: Any, seen: list, pose: Tensor, true_frame: Tensor | None, noise: Tensor | None,
        from_posterior: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """One frame (B, 3, H, W), and the KL (B, *latent) of its posterior where the true frame is given.

        reference: the features of x_1. seen: those of the last frames, in order. See `rollout`.
        """
        pose = self.label_transformation(to_float(pose))
        mu, logvar, kl = *self.prior_of(seen, pose, x_1), None  # p(z | last frames, pose)
        if true_frame is not None:
            truth = self.frame_transformation(true_frame)
            q_mu, q_logvar = self.Gaussian_Predictor(truth, pose)[1:]  # q(z | true frame, pose)
            kl = gaussian_kl(q_mu, q_logvar, mu, logvar)
            if from_posterior is not None:
                mu, logvar = torch.where(from_posterior, q_mu, mu), torch.where(from_posterior, q_logvar, logvar)
        z = reparameterise(mu, logvar, noise)
        return self.Generator(self.Decoder_Fusion(seen[-1], pose, z, reference), x_1).float(), kl

    def prior_of(self, seen: list, pose_features: Any, x_1: Tensor) -> tuple[Tensor, Tensor]:
        """mu and logvar (B, *latent) of the prior; zeros for N(0, I)."""
        if self.prior is not None:
            return self.prior(self.joined(seen), pose_features)[1:]
        zeros = x_1.new_zeros(len(x_1), *self.latent_shape(*x_1.shape[-2:]))
        return zeros, zeros


def frame_loss(
    objective: str, frames: Tensor, target: Tensor, kl: Tensor, beta: Tensor | float
) -> tuple[Tensor, Tensor]:
    """The negative bound of every frame, up to a constant, and its mean squared error: (B, T) each.

    frames and target: (B, T, 3, H, W). kl: (B, T) nats. beta: its weight, a number or (B, 1).
    "mse": the course's mse + beta * kl, the mean over a frame's values and the sum over its latents.
    "calibrated": D/2 * log(mse) + beta * kl, a Gaussian decoder with its best variance (Rybkin, Daniilidis and Levine
    2021), given in units of D/2 so that the gradient's size does not depend on the frame size; D = 3 * H * W values.
    MSE_FLOOR bounds the gradient of frames that are almost perfect.
    """
    mse, values = frame_mse(frames, target), frames[0, 0].numel()
    if objective == "mse":
        return mse + beta * kl, mse
    return torch.log(mse + MSE_FLOOR) + beta * kl * (2 / values), mse
