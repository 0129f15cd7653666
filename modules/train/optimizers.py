"""Optimizers: torch's Adam and AdamW, and Muon for the matrices of convolutions."""

import math

import torch
from torch import Tensor, nn

from modules.model.vae import VAE_Model

AUXILIARY_RATE = 0.4  # AdamW's learning rate for what Muon does not train, as a share of Muon's
MATRIX_CHANNELS = 8  # convolutions with at least so many channels in and out are Muon's
# Newton-Schulz quintic x (a + b x^2 + c x^4), which drives singular values towards one (Jordan et al. 2024)
A, B, C, ITERATIONS = 3.4445, -4.7750, 2.0315, 5


def build_optimizers(
    name: str, model: VAE_Model, lr: float, weight_decay: float, dtype: torch.dtype = torch.float32
) -> list[torch.optim.Optimizer]:
    """The optimizers of --optim Adam, AdamW or Muon. A group's rate is `lr_scale` times the scheduled one.

    Muon trains the convolutions but for those of `model.adamw_networks`; AdamW trains the rest. dtype: what
    the networks compute in, and Muon's largest product too.
    """
    parameters = list(model.parameters())
    if name != "Muon":
        kind = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[name]
        groups = [{"params": parameters, "lr_scale": 1.0}]
        return [kind(groups, lr=lr, weight_decay=weight_decay, fused=True)]
    matrices = [
        p for name, p in model.named_parameters()
        if p.ndim == 4 and min(p.shape[:2]) >= MATRIX_CHANNELS and name.split(".")[0] not in model.adamw_networks
    ]
    known = set(map(id, matrices))
    rest = [p for p in parameters if id(p) not in known]
    rest = [{"params": [p for p in rest if (p.ndim > 1) == decays], "weight_decay": weight_decay * decays,
             "lr_scale": AUXILIARY_RATE} for decays in (True, False)]
    adamw = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), fused=True)
    return [Muon(matrices, lr, weight_decay, dtype=dtype), adamw]


def clipped_step(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], means: Tensor, lr: Tensor, clip_norm: float
) -> Tensor:
    """Clip the gradient to clip_norm (0: not), then one step of every optimizer, if norm and `means` are finite:
    () bool. Where they are not, weights and state stay as they are.

    lr: () the scheduled learning rate, of which every group has its share. The host does not wait for the device:
    `found_inf`, which torch's fused optimizers and Muon read, is what torch.amp.GradScaler sets for the same purpose.
    """
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm or math.inf)
    finite = norm.isfinite() & means.isfinite().all()
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        optimizer.grad_scale, optimizer.found_inf = None, (~finite).float()
        optimizer.step()
    return finite


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, share: Tensor) -> None:
    """Exponential moving average: every weight of `ema` goes () `share` of the way to the model's."""
    weights = list(ema.parameters())
    torch._foreach_lerp_(weights, list(model.parameters()), [share] * len(weights))


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, for convolution weights (out, in, k, k), seen as (out, in k k).

    Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the update's size is matched to
    AdamW's by 0.2 sqrt(max(rows, columns)) (Liu et al. 2025, "Muon is scalable for LLM training"). torch.optim.Muon
    takes matrices only and knows no `found_inf`. dtype: of the largest matrix product.
    """

    def __init__(
        self, parameters: list[Tensor], lr: float, weight_decay: float = 0.0, momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "lr_scale": 1.0})
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        """One step; none if `found_inf` () is not 0, see clipped_step."""
        skip, taken = self.found_inf, 1.0 - self.found_inf
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            momenta, gradients = [self.state[p]["momentum"] for p in params], [p.grad for p in params]
            # a step that is not taken leaves the mean as it is
            gradients = [torch.where(skip > 0, m, g) for m, g in zip(momenta, gradients, strict=True)]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            means, lr = torch._foreach_lerp(gradients, momenta, group["momentum"]), taken * group["lr"]
            updates = orthogonal_updates(means, lr, self.dtype)
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
            torch._foreach_sub_(params, updates)


def orthogonal_updates(means: list[Tensor], lr: Tensor | float, dtype: torch.dtype) -> list[Tensor]:
    """The update of every weight (out, in, k, k) from its mean gradient."""
    by_shape: dict[tuple, list[int]] = {}
    for i, mean in enumerate(means):
        by_shape.setdefault(tuple(mean.shape), []).append(i)
    # (out, kh kw in): the order of the columns does not matter, and channels_last weights lie like this
    stacks = [torch.stack([means[i].permute(0, 2, 3, 1).flatten(1) for i in places]) for places in by_shape.values()]
    sizes = [lr * 0.2 * max(stack.shape[1:]) ** 0.5 for stack in stacks]
    updates = list(means)
    for ((_, channels, kh, kw), places), stack in zip(
        by_shape.items(), orthogonalise(stacks, sizes, dtype), strict=True
    ):
        for i, update in zip(places, stack, strict=True):
            updates[i] = update.unflatten(1, (kh, kw, channels)).permute(0, 3, 1, 2)
    return updates


def orthogonalise(stacks: list[Tensor], sizes: list, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """The nearest orthogonal matrices, nearly, times a size each: (n, rows, columns) each -> the same, singular values
    about 0.7 … 1.2 times its size.

    The iteration X <- Q X, Q = aI + bG + cG^2, is run on the small Gram matrices G = X X^T alone, G <- Q G Q, those of
    one size together. Only the last product, with X itself, is computed in `dtype`: a G that is rounded to bfloat16 has
    eigenvalues below zero, which the iteration drives to infinity.
    """
    wide = [x.mT if x.shape[1] > x.shape[2] else x for x in stacks]
    by_size: dict[int, list[int]] = {}
    for i, x in enumerate(wide):
        by_size.setdefault(x.shape[1], []).append(i)
    for places in by_size.values():
        gram = torch.cat([wide[i] @ wide[i].mT for i in places])
        norm_squared = gram.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None] + 1e-20
        gram, product = gram / norm_squared, None
        for iteration in range(ITERATIONS):
            q = torch.baddbmm(gram, gram, gram, beta=B, alpha=C)
            q.diagonal(dim1=1, dim2=2).add_(A)
            product = q if product is None else q @ product
            if iteration + 1 < ITERATIONS:
                gram = q @ gram @ q
        products = (product / norm_squared.sqrt()).split([len(wide[i]) for i in places])
        for i, product in zip(places, products, strict=True):
            wide[i] = ((product * sizes[i]).to(dtype) @ wide[i].to(dtype)).float()
    return [x.mT if stack.shape[1] > stack.shape[2] else x for x, stack in zip(wide, stacks, strict=True)]
