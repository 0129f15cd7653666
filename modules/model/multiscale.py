"""The same five networks, made for speed and quality: features at 1, 1/2, 1/4, 1/8 … of the frame's resolution.

Most of the work is done at the small resolutions. The pose enters at every resolution, z at the smallest. x_1 is the
reference: it shows the background and the dancer's looks. A "pyramid" is a list of feature maps, one per level,
full resolution first. F, L, N and D are --F_dim, --L_dim, --N_dim and --D_out_dim: the channels at 1/8 and below of
frame features, pose features, latent and fused features.

A larger frame gets more levels, so the smallest map, h x w, stays as small as 4x8 and sees the whole body. They are
added below 1/8, where they cost little: frames of twice the sides take 4.2 times the operations.
"""

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.model.layers import reparameterise, split_gaussian

LEVELS = range(4, 14)  # how many there can be; a weight's number in its name is its level
SMALLEST_SIDE = 4  # of the smallest feature map, see levels_for
# of each level, the last one's also of all further levels
FRAME_SHARES = (1 / 6, 1 / 3, 2 / 3, 1.0)  # channels, as a share of those at 1/8
POSE_SHARES = (0.1, 0.3, 0.6, 1.0)
FRAME_BLOCKS, POSE_BLOCKS, FUSED_BLOCKS = (0, 0, 0, 0), (0, 1, 1, 1), (1, 2, 2, 2)
CHANNEL_STEP = 8  # channels are multiples of it
LOGVAR_SPAN = 6.0
INFORMED_GAIN, INFORMED_LOGVAR = 2.0, -4.0  # how a posterior starts; a standard deviation of 0.14
SLOPE = 0.1  # of the LeakyReLUs
USES_X_1, USES_LAST = True, False  # whether Decoder_Fusion uses the features of x_1 and of the last frame
# These networks have layers that start at zero. Muon's updates have full rank and would grow them too fast.
ADAMW_NETWORKS = ("Gaussian_Predictor", "prior", "Decoder_Fusion")


def build(
    F_dim: int, L_dim: int, N_dim: int, D_out_dim: int, levels: int, prior_frames: int
) -> dict[str, nn.Module | None]:
    """The networks of VAE_Model by their names. prior_frames: 0 for the standard prior. ValueError unless F_dim and
    D_out_dim are multiples of CHANNEL_STEP."""
    if F_dim % CHANNEL_STEP or D_out_dim % CHANNEL_STEP:
        raise ValueError(f"F_dim {F_dim}, D_out_dim {D_out_dim}: expected multiples of {CHANNEL_STEP}")
    return {
        "frame_transformation": RGB_Encoder(F_dim, levels),
        "label_transformation": Label_Encoder(L_dim, D_out_dim, levels),
        "Gaussian_Predictor": Gaussian_Predictor(1, F_dim, D_out_dim, N_dim, informed=True),
        "Decoder_Fusion": Decoder_Fusion(F_dim, N_dim, D_out_dim, levels),
        "Generator": Generator(D_out_dim, levels),
        "prior": Gaussian_Predictor(prior_frames, F_dim, D_out_dim, N_dim, informed=False) if prior_frames else None,
    }


def levels_for(height: int, width: int) -> int:
    """The levels of a new model for frames of height x width pixels: as many as leave the smallest map a short side of
    at least SMALLEST_SIDE pixels, so 4x8 at 32x64, 64x128 and 128x256; no more than both sides can be halved, and no
    fewer than LEVELS begins with."""

    def fits(levels: int) -> bool:
        scale = 2 ** (levels - 1)
        return height % scale == width % scale == 0 and min(height, width) >= SMALLEST_SIDE * scale

    return max([LEVELS[0], *filter(fits, LEVELS)])


def sizes_of(state: dict[str, Tensor]) -> dict[str, int]:
    """The arguments of VAE_Model from the shapes of its weights; KeyError where one of them is missing."""
    F_dim, prior = state["Gaussian_Predictor.frame.weight"].shape[0], state.get("prior.frame.weight")
    levels = [match for name in state if (match := re.fullmatch(r"frame_transformation\.convs\.\d+\.weight", name))]
    return {
        "F_dim": F_dim,
        "prior_frames": 0 if prior is None else prior.shape[1] // F_dim,
        "L_dim": state["label_transformation.convs.3.weight"].shape[0],
        "N_dim": state["Decoder_Fusion.latent.weight"].shape[1],
        "D_out_dim": state["Gaussian_Predictor.pose.weight"].shape[1],
        "levels": len(levels),
    }


def joined(features: list[list[Tensor]]) -> list[Tensor]:
    """The smallest maps of several frames, (B, F, h, w) each, as a pyramid of one map, (B, K * F, h, w)."""
    return [torch.cat([pyramid[-1] for pyramid in features], dim=1)]


def widths(channels: int, shares: tuple[float, ...], levels: int) -> list[int]:
    """Channels at every level, rounded to multiples of CHANNEL_STEP."""
    return [CHANNEL_STEP * max(1, round(channels * share / CHANNEL_STEP)) for share in continued(shares, levels)]


def continued(values: tuple, levels: int) -> tuple:
    """One value per level: the last one also for all further levels."""
    return values + values[-1:] * (levels - len(values))


class Block(nn.Module):
    """x + conv(act(conv(act(x)))), both 3x3: (B, C, h, w) -> (B, C, h, w). Starts as the identity, needs no norm."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(act(self.conv1(act(x))))


def act(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


def keep_scale(conv: nn.Conv2d, slope: float = 1.0) -> None:
    """Initialise (He et al. 2015) so that features keep their scale, and z sees what differs between frames.

    slope: of the LeakyReLU before the convolution, 1 for none.
    """
    nn.init.kaiming_normal_(conv.weight, a=slope)
    nn.init.zeros_(conv.bias)


class Pyramid(nn.Module):
    """Image (B, 3, H, W), values 0 … 1 -> pyramid of (B, widths[i], H / 2^i, W / 2^i)."""

    def __init__(self, channels: list[int], blocks: tuple[int, ...], zero: float, scale: float):
        super().__init__()
        self.zero, self.scale = zero, scale  # what the convolutions see is scale * (image - zero)
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=1 if i == 0 else 2, padding=1)
            for i, (before, after) in enumerate(zip([3, *channels], channels, strict=False))
        )
        self.blocks = nn.ModuleList(nn.Sequential(*map(Block, [c] * n)) for c, n in zip(channels, blocks, strict=True))
        for i, conv in enumerate(self.convs):
            keep_scale(conv, SLOPE if i else 1.0)

    def forward(self, x: Tensor) -> list[Tensor]:
        pyramid, x = [], self.scale * (x - self.zero)
        for i, (conv, blocks) in enumerate(zip(self.convs, self.blocks, strict=True)):
            x = blocks(conv(act(x) if i else x))
            pyramid.append(x)
        return pyramid


class RGB_Encoder(Pyramid):
    """frame -> frame features; grey is zero."""

    def __init__(self, F_dim: int, levels: int):
        channels, blocks = widths(F_dim, FRAME_SHARES, levels), continued(FRAME_BLOCKS, levels)
        super().__init__(channels, blocks, zero=0.5, scale=4.0)


class Label_Encoder(Pyramid):
    """pose -> pose features, already of the fused features' channels; the white background is zero."""

    def __init__(self, L_dim: int, D_out_dim: int, levels: int):
        channels, mapped = widths(L_dim, POSE_SHARES, levels), widths(D_out_dim, POSE_SHARES, levels)
        super().__init__(channels, continued(POSE_BLOCKS, levels), zero=1.0, scale=-4.0)
        self.maps = nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in zip(channels, mapped, strict=True))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [project(features) for project, features in zip(self.maps, super().forward(x), strict=True)]


class Gaussian_Predictor(nn.Module):
    """q(z | frame to predict, pose), or p(z | last frames, pose), from the smallest maps -> z, mu, logvar.

    Each (B, N, h, w) float32. A prior starts as N(0, I). A posterior starts `informed`: narrow, and its mean
    follows the frame. Starting from N(0, I), z would be noise at first, and the decoder would learn to ignore it.
    """

    def __init__(self, frames: int, F_dim: int, D_out_dim: int, N_dim: int, informed: bool):
        super().__init__()
        self.frame = nn.Conv2d(frames * F_dim, F_dim, 1)
        self.pose = nn.Conv2d(D_out_dim, F_dim, 1)
        self.block = Block(F_dim)
        self.out = nn.Conv2d(F_dim, 2 * N_dim, 1)
        keep_scale(self.frame)
        keep_scale(self.pose)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        if informed:
            nn.init.normal_(self.out.weight[:N_dim], std=INFORMED_GAIN * (2 / F_dim) ** 0.5)
            nn.init.constant_(self.out.bias[N_dim:], INFORMED_LOGVAR)

    def forward(self, frame_features: list[Tensor], pose_features: list[Tensor], noise: Tensor | None = None):
        """noise (B, N, h, w) from N(0, I), or None for z = mu."""
        joint = self.frame(frame_features[-1]) + self.pose(pose_features[-1])
        mu, logvar = split_gaussian(self.out(act(self.block(joint))))
        logvar = LOGVAR_SPAN * torch.tanh(logvar / LOGVAR_SPAN)  # at high rates the KL would otherwise leap to 10^6
        return reparameterise(mu, logvar, noise), mu, logvar


class Decoder_Fusion(nn.Module):
    """Features of x_1, of the pose, and z -> fused pyramid: their linear maps, summed.

    The last frame reaches the next one only through the prior of z, a few numbers at the smallest map. So errors in
    its details are not copied from frame to frame.
    """

    def __init__(self, F_dim: int, N_dim: int, D_out_dim: int, levels: int):
        super().__init__()
        pairs = list(zip(widths(F_dim, FRAME_SHARES, levels), widths(D_out_dim, POSE_SHARES, levels), strict=True))
        self.first = nn.ModuleList(nn.Conv2d(i, o, 1, bias=False) for i, o in pairs)
        self.latent = nn.Conv2d(N_dim, pairs[-1][1], 1, bias=False)

    def forward(
        self, last_features: list[Tensor] | None, pose_features: list[Tensor], z: Tensor, reference: list[Tensor]
    ) -> list[Tensor]:
        references = (project(features) for project, features in zip(self.first, reference, strict=True))
        fused = [pose + x_1 for pose, x_1 in zip(pose_features, references, strict=True)]
        fused[-1] = fused[-1] + self.latent(z)
        return fused


class Generator(nn.Module):
    """Fused pyramid -> next frame (B, 3, H, W) in (0, 1): x_1 plus a change, on the scale of logits.

    A pixel that should stay as it is in x_1 costs nothing, and a rollout stays within (0, 1), however long.
    """

    def __init__(self, D_out_dim: int, levels: int):
        super().__init__()
        channels, blocks = widths(D_out_dim, POSE_SHARES, levels), continued(FUSED_BLOCKS, levels)
        self.blocks = nn.ModuleList(nn.Sequential(*map(Block, [c] * n)) for c, n in zip(channels, blocks, strict=True))
        self.up = nn.ModuleList(nn.Conv2d(low, high, 1) for high, low in zip(channels, channels[1:], strict=False))
        self.out = nn.Conv2d(channels[0], 3, 3, padding=1)

    def forward(self, fused: list[Tensor], x_1: Tensor) -> Tensor:
        x = self.blocks[-1](fused[-1])  # (B, D, h, w)
        for level in reversed(range(len(self.up))):
            x = fused[level] + F.interpolate(self.up[level](x), scale_factor=2, mode="nearest")
            x = self.blocks[level](x)
        with torch.autocast(x.device.type, enabled=False):  # a rollout feeds this back: float32
            return torch.sigmoid(torch.logit(x_1, eps=0.01) + self.out(act(x.float())))
