"""The world that a rank lives in: how many ranks there are, on what device, and meshes of them by name."""

import math
from dataclasses import dataclass, replace
from typing import Any

from kit.errors import UserError


@dataclass(frozen=True)
class World:
    """This rank's place. device: a torch.device. silent: meshes whose collectives move nothing and cost nothing
    (torch's fake backend), to tell how long a step takes without communication; its answers are garbage."""

    rank: int
    size: int
    device: Any
    silent: bool = False

    def mesh(self, **dims: int) -> Any:
        """Return a DeviceMesh with these named dimensions, as mesh(dp=2, tp=2).

        Raise UserError if they don't multiply to the number of ranks.
        """
        from torch.distributed.device_mesh import init_device_mesh

        if math.prod(dims.values()) != self.size:
            asked = " × ".join(f"{name} {size}" for name, size in dims.items())
            raise UserError(f"{asked} is not {self.size} ranks; take dimensions that multiply to {self.size}")
        override = dict.fromkeys(dims, "fake") if self.silent else None
        return init_device_mesh(
            self.device.type, tuple(dims.values()), mesh_dim_names=tuple(dims), backend_override=override
        )

    def silenced(self) -> "World":
        """Return the same place in a world without communication."""
        from torch.testing._internal.distributed import fake_pg  # noqa: F401, registers the backend

        return replace(self, silent=True)


def backend(device_type: str) -> str:
    """Return the library that moves tensors between ranks on this kind of device."""
    backends = {"cpu": "gloo", "cuda": "nccl"}
    if device_type not in backends:
        raise UserError(f"no backend is known for device {device_type!r}; take one of {', '.join(backends)}")
    return backends[device_type]
