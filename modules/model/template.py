"""The five networks of the course's architecture, to the letter: NYCU "Deep Learning and Practice", Lab 4.

209 tensors and 1,585,620 parameters at the default sizes; checkpoints are interchangeable with the template's.
All images and features share one resolution, H x W. F, L, N and D are --F_dim, --L_dim, --N_dim and --D_out_dim.
"""

import torch
from torch import Tensor, nn

from modules.model.layers import DepthConvBlock, ImageNorm2d, Residual, reparameterise, split_gaussian

LEVELS = range(1, 2)  # resolutions of the features: one
USES_X_1, USES_LAST = False, True  # whether Decoder_Fusion uses the features of x_1 and of the last frame
ADAMW_NETWORKS = ("Gaussian_Predictor", "prior", "Decoder_Fusion")  # see optimizers.py


def build(
    F_dim: int, L_dim: int, N_dim: int, D_out_dim: int, levels: int, prior_frames: int
) -> dict[str, nn.Module | None]:
    """The networks of VAE_Model by their names. levels: 1. prior_frames: 0 for the standard prior."""
    return {
        "frame_transformation": RGB_Encoder(F_dim),
        "label_transformation": Label_Encoder(L_dim),
        "Gaussian_Predictor": Gaussian_Predictor(F_dim, L_dim, N_dim),
        "Decoder_Fusion": Decoder_Fusion(F_dim, L_dim, N_dim, D_out_dim),
        "Generator": Generator(D_out_dim),
        "prior": Gaussian_Predictor(prior_frames * F_dim, L_dim, N_dim) if prior_frames else None,
    }


def levels_for(height: int, width: int) -> int:
    """The levels of a new model for frames of any size."""
    return LEVELS[0]


def sizes_of(state: dict[str, Tensor]) -> dict[str, int]:
    """The arguments of VAE_Model from the shapes of its weights; KeyError where one of them is missing."""
    F_dim, more = state["frame_transformation.6.weight"].shape[0], 0
    if "prior.0.conv1.weight" in state:  # the posterior's channels are of one frame and the pose
        more = state["prior.0.conv1.weight"].shape[1] - state["Gaussian_Predictor.0.conv1.weight"].shape[1] + F_dim
    return {
        "F_dim": F_dim,
        "prior_frames": more // F_dim,
        "L_dim": state["label_transformation.4.conv2.weight"].shape[0],
        "N_dim": state["Gaussian_Predictor.4.conv2.weight"].shape[0],
        "D_out_dim": state["Decoder_Fusion.5.weight"].shape[0],
        "levels": LEVELS[0],
    }


def joined(features: list[Tensor]) -> Tensor:
    """The features of several frames, (B, F, H, W) each, as one, (B, K * F, H, W)."""
    return torch.cat(features, dim=1)


class RGB_Encoder(nn.Sequential):
    """frame (B, 3, H, W) -> frame features (B, F, H, W)."""

    def __init__(self, F_dim: int):
        super().__init__(
            Residual(3, F_dim // 8),
            DepthConvBlock(F_dim // 8, F_dim // 8),
            Residual(F_dim // 8, F_dim // 4),
            DepthConvBlock(F_dim // 4, F_dim // 4),
            Residual(F_dim // 4, F_dim // 2),
            DepthConvBlock(F_dim // 2, F_dim // 2),
            nn.Conv2d(F_dim // 2, F_dim, 3, padding=1),
        )


class Label_Encoder(nn.Sequential):
    """pose (B, 3, H, W) -> pose features (B, L, H, W)."""

    def __init__(self, L_dim: int):
        super().__init__(
            nn.ReflectionPad2d(3),
            nn.Conv2d(3, L_dim // 2, 7),
            ImageNorm2d(L_dim // 2),
            nn.Identity(),  # the template's LeakyReLU of slope 1
            Residual(L_dim // 2, L_dim),
        )


class Gaussian_Predictor(nn.Sequential):
    """q(z | frame to predict, pose): features (B, F, H, W) and (B, L, H, W) -> z, mu, logvar, each (B, N, H, W)."""

    def __init__(self, F_dim: int, L_dim: int, N_dim: int):
        super().__init__(
            Residual(F_dim + L_dim, N_dim // 4),
            DepthConvBlock(N_dim // 4, N_dim // 4),
            Residual(N_dim // 4, N_dim // 2),
            DepthConvBlock(N_dim // 2, N_dim // 2),
            Residual(N_dim // 2, N_dim),
            nn.Identity(),  # the template's LeakyReLU of slope 1
            nn.Conv2d(N_dim, 2 * N_dim, 1),
        )

    def forward(self, frame_features: Tensor, pose_features: Tensor, noise: Tensor | None = None):
        """noise (B, N, H, W) from N(0, I), or None for z = mu."""
        mu, logvar = split_gaussian(super().forward(torch.cat([frame_features, pose_features], dim=1)))
        return reparameterise(mu, logvar, noise), mu, logvar


class Decoder_Fusion(nn.Sequential):
    """features of the last frame, of the pose, and z -> fused features (B, D, H, W). The reference is not used."""

    def __init__(self, F_dim: int, L_dim: int, N_dim: int, D_out_dim: int):
        n = F_dim + L_dim + N_dim
        super().__init__(
            DepthConvBlock(n, n),
            Residual(n, n // 4),
            DepthConvBlock(n // 4, n // 2),
            Residual(n // 2, n // 2),
            DepthConvBlock(n // 2, D_out_dim // 2),
            nn.Conv2d(D_out_dim // 2, D_out_dim, 1),
        )

    def forward(
        self, last_features: Tensor, pose_features: Tensor, z: Tensor, reference: Tensor | None = None
    ) -> Tensor:
        # an NCHW or float32 z would make the whole of the cat so, and the next convolution would turn it back
        z = z.to(last_features.dtype, memory_format=torch.channels_last)
        return super().forward(torch.cat([last_features, pose_features, z], dim=1))


class Generator(nn.Sequential):
    """fused features (B, D, H, W) -> next frame (B, 3, H, W), unbounded. x_1 is not used."""

    def __init__(self, D_out_dim: int):
        D = D_out_dim
        super().__init__(
            DepthConvBlock(D, D),
            Residual(D, D // 2),
            DepthConvBlock(D // 2, D // 2),
            Residual(D // 2, D // 4),
            DepthConvBlock(D // 4, D // 4),
            Residual(D // 4, D // 8),
            DepthConvBlock(D // 8, D // 8),
            nn.Conv2d(D // 8, 3, 1),
        )

    def forward(self, fused: Tensor, x_1: Tensor | None = None) -> Tensor:
        return super().forward(fused)
