"""The first GPU: copies on the device and to it, matrix products; by PyTorch, else by CuPy what it has.

The device is a parameter, so that all of it but the speed is tested on a processor.
"""

from collections.abc import Callable
from functools import partial

from kit.machine.ceilings.probe import Conditions, Impossible, best_s
from kit.machine.ceilings.products import best_rate

COPY_MIB = 512
TO_DEVICE_MIB = 256
SMALLEST, LARGEST = 2048, 16384


def copy_gib_per_s(conditions: Conditions, device: str = "cuda") -> float:
    """Return GiB/s of bytes read (as many are written) within the device's memory."""
    torch, wait = _torch(device)
    source = torch.ones(COPY_MIB * 2**18, device=device)
    target = torch.empty_like(source)
    return COPY_MIB / 1024 / best_s(lambda: (target.copy_(source), wait()), conditions.budget_s)


def to_device_gib_per_s(conditions: Conditions, device: str = "cuda") -> float:
    """Return GiB/s from the host's pinned memory to the device."""
    torch, wait = _torch(device)
    source = torch.ones(TO_DEVICE_MIB * 2**18, pin_memory=device != "cpu")
    target = torch.empty_like(source, device=device)
    seconds = best_s(lambda: (target.copy_(source, non_blocking=True), wait()), conditions.budget_s)
    return TO_DEVICE_MIB / 1024 / seconds


def product_per_s(kind: str, conditions: Conditions, device: str = "cuda", largest: int = LARGEST) -> float:
    """Return 10⁹ operations a second of a matrix product; kind: fp32, tf32, bf16 or int8."""
    torch, wait = _torch(device)
    torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")

    def product(n: int) -> Callable[[], object]:
        if kind == "int8":
            left = torch.randint(-100, 100, (n, n), dtype=torch.int8, device=device)
            right = left.t().contiguous().t()  # by columns, as the device's units take it
            return lambda: (torch._int_mm(left, right), wait())
        left = torch.rand(n, n, device=device).to(torch.bfloat16 if kind == "bf16" else torch.float32)
        out = torch.empty_like(left)
        return lambda: (torch.mm(left, left, out=out), wait())

    return best_rate(product, conditions.budget_s, min(SMALLEST, largest), largest)


def _torch(device: str):
    """Return PyTorch and how to wait for the device. Raise `Impossible` where PyTorch can't use it."""
    import torch

    if device == "cpu":
        return torch, lambda: None
    if not torch.cuda.is_available():
        raise Impossible("PyTorch is installed without CUDA, or for another one")
    return torch, torch.cuda.synchronize


def by_cupy(xp, what: str, conditions: Conditions) -> float:
    """Return the copy or the FP32 product by CuPy, or by NumPy, which speaks the same language."""
    wait = xp.cuda.runtime.deviceSynchronize if hasattr(xp, "cuda") else lambda: None
    if what == "product":

        def product(n: int) -> Callable[[], object]:
            left = xp.full((n, n), 0.5, xp.float32)
            out = xp.empty_like(left)
            return lambda: (xp.matmul(left, left, out=out), wait())

        return best_rate(product, conditions.budget_s, SMALLEST, LARGEST if hasattr(xp, "cuda") else SMALLEST)
    source = xp.ones(COPY_MIB * 2**18, xp.float32)
    target = xp.empty_like(source)
    return COPY_MIB / 1024 / best_s(lambda: (xp.copyto(target, source), wait()), conditions.budget_s)


def _else_cupy(probe: Callable[[Conditions], float], what: str, conditions: Conditions) -> float:
    try:
        return probe(conditions)
    except (ImportError, Impossible) as without_torch:
        try:
            import cupy
        except ImportError:
            raise without_torch from None
        return by_cupy(cupy, what, conditions)


PROBES = {
    "device_copy_gib_per_s": partial(_else_cupy, copy_gib_per_s, "copy"),
    "host_to_device_gib_per_s": to_device_gib_per_s,
    "device_matrix_product_fp32_gflop_per_s": partial(_else_cupy, partial(product_per_s, "fp32"), "product"),
    "device_matrix_product_tf32_gflop_per_s": partial(product_per_s, "tf32"),
    "device_matrix_product_bf16_gflop_per_s": partial(product_per_s, "bf16"),
    "device_matrix_product_int8_gop_per_s": partial(product_per_s, "int8"),
}
