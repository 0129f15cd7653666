"""Blocks that the architectures share, and the Gaussian that both put on their latent.

Residual and DepthConvBlock are the course template's; DepthConvBlock descends from microsoft/DCVC (MIT licence).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOGVAR_BOUND = 20.0  # keeps exp(logvar) finite in float32


def reparameterise(mu: Tensor, logvar: Tensor, noise: Tensor | None) -> Tensor:
    """z = mu + noise * sigma (Kingma & Welling 2014, eq. 10); without noise, the mean."""
    return mu if noise is None else mu + noise * torch.exp(0.5 * logvar)


def gaussian_kl(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor) -> Tensor:
    """KL(N(mu, exp logvar) || N(prior_mu, exp prior_logvar)) per latent, in nats, in float32; all of one shape.

    With a prior of zeros, N(0, I), it is the formula of Kingma & Welling 2014, appendix B.
    """
    mu, logvar, prior_mu, prior_logvar = (x.float() for x in (mu, logvar, prior_mu, prior_logvar))
    distance = (mu - prior_mu).square() * torch.exp(-prior_logvar)
    return 0.5 * (distance + torch.exp(logvar - prior_logvar) - 1 - logvar + prior_logvar)


def split_gaussian(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2N, h, w) to mu and bounded logvar, each (B, N, h, w) float32."""
    mu, logvar = parameters.float().chunk(2, dim=1)
    return mu, logvar.clamp(-LOGVAR_BOUND, LOGVAR_BOUND)


class ImageNorm2d(nn.BatchNorm2d):
    """BatchNorm2d that always normalises each image with its own statistics.

    The template never leaves training mode, so at its test batch of 1 this is what it computes. Doing the same in
    training, validation and testing makes the result independent of the batch. Names and shapes are BatchNorm2d's.
    """

    def forward(self, x: Tensor) -> Tensor:
        # not F.instance_norm: in channels_last torch 2.14 computes a wrong gradient for a batch of one
        variance, mean = torch.var_mean(x.float(), dim=(2, 3), correction=0, keepdim=True)
        weight, bias = self.weight[:, None, None], self.bias[:, None, None]
        return (x - mean) * torch.rsqrt(variance + self.eps) * weight + bias


class Residual(nn.Module):
    """Two 3x3 convolutions, a LeakyReLU after each, plus the input: (B, i, H, W) -> (B, o, H, W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = F.leaky_relu(self.conv1(x), 0.01)
        return F.leaky_relu(self.conv2(out), 0.01) + self.skip(x)


class DepthConv(nn.Module):
    """1x1, depthwise 3x3, 1x1, plus the input: (B, i, H, W) -> (B, o, H, W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(in_channels, in_channels, 1), nn.LeakyReLU(0.01))
        self.depth_conv = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 1)
        self.adaptor = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.depth_conv(self.conv1(x))) + self.adaptor(x)


class ConvFFN(nn.Module):
    """Gated 1x1 feed-forward, plus the input: (B, o, H, W) -> (B, o, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 1)
        self.conv_out = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # two convolutions, not the halves of one: their gradients need not be put together again
        halves = zip(self.conv.weight.chunk(2), self.conv.bias.chunk(2), strict=True)
        value, gate = (F.conv2d(x, weight, bias) for weight, bias in halves)
        return x + self.conv_out(value * F.leaky_relu(gate, 0.1))


class DepthConvBlock(nn.Module):
    """DepthConv, then ConvFFN: (B, i, H, W) -> (B, o, H, W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.block = nn.Sequential(DepthConv(in_channels, out_channels), ConvFFN(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)
