"""Where and in what precision to compute, and random streams.

Randomness is a pure function of (seed, stream, epoch, step): nothing has to be saved to repeat it.
"""

import contextlib

import numpy as np
import torch

from modules.runtime import InputError


def derive_seed(*parts: int) -> int:
    """One 63-bit seed from several whole numbers, e.g. (seed, stream, epoch, step)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def random_generator(device: torch.device | str, *parts: int) -> torch.Generator:
    """A generator on `device` whose stream is a function of `parts` alone."""
    return torch.Generator(device).manual_seed(derive_seed(*parts))


def pick_device(name: str | None) -> torch.device:
    """The device asked for: cpu, or torch's accelerator with or without a number, such as cuda:1 or mps. By default the
    accelerator if there is one, else the CPU with one line that says so."""
    found = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if name is None and found.type == "cpu":
        print("No GPU found: running on the CPU.")
    try:
        device = torch.device(name or found.type)
        if device.type not in ("cpu", found.type) or (device.index or 0) >= max(1, torch.accelerator.device_count()):
            raise RuntimeError
    except RuntimeError:
        raise InputError(f"--device {name}: torch finds no such device here; expected cpu, {found.type}, …") from None
    if device.index is not None and device.type != "cpu":
        torch.accelerator.set_device_index(device.index)
    return device


def cpu_has_bfloat16() -> bool:
    """True where the CPU computes bfloat16 natively (AVX512-BF16 or AMX): there it is faster than float32."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            flags = file.read()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """Resolve `--precision {auto,fp32,bf16}` to the dtype of convolutions. Losses, KL and frames stay float32."""
    if name == "auto":
        on_gpu, on_cpu = device.type == "cuda", device.type == "cpu" and cpu_has_bfloat16()
        fast = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else on_cpu
        name = "bf16" if fast else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[name]


def autocast(device: torch.device, dtype: torch.dtype):
    """The autocast context for `dtype`; no context for float32."""
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
