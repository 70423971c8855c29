"""Samples on the device that a network trains on.

A GPU holds all of them where they fit, as they are stored (one bit a voxel for occupancy), and makes its batches
itself. Otherwise batches come from the host, which does not wait for the GPU.
"""

import math
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fer_cli.data.dataset import Indices, VolumeSet
from fer_cli.data.volumes import Volumes
from fer_cli.execution.transfer import moved
from fer_cli.storage.spooled import SpooledRows

_SHARE = 4
"""One part in so many of a GPU's free memory that samples may take."""


class Loader:
    """Batches of a volume set on a device."""

    def __init__(self, voxels: VolumeSet, device: torch.device) -> None:
        self._voxels = voxels
        self._device = device

    def batch(self, indices: Indices) -> Volumes:
        """Volumes of the given samples, on the device."""
        if self._held is None:
            return moved(self._voxels.tensor(indices), self._device)
        chosen = self._held[moved(torch.from_numpy(np.asarray(indices, dtype=np.int64)), self._device)]
        if self._voxels.input.kind == "intensity":
            return chosen.float()
        # Of the eight voxels of a byte the first is the highest bit.
        bits = (chosen[:, :, None] >> self._places) & 1
        read = self._voxels.input
        return bits.flatten(1)[:, : math.prod(read.shape)].view(-1, 1, *read.shape).float()

    @cached_property
    def _held(self) -> Tensor | None:
        """All samples as they are stored, on a GPU with room for them."""
        packed: np.ndarray | SpooledRows | None = getattr(self._voxels, "packed", None)
        if self._device.type != "cuda" or packed is None or packed.dtype == np.uint16:
            return None
        free, _ = torch.cuda.mem_get_info(self._device)
        return torch.from_numpy(packed[:]).to(self._device) if packed.nbytes <= free // _SHARE else None

    @cached_property
    def _places(self) -> Tensor:
        return torch.arange(7, -1, -1, dtype=torch.uint8).to(self._device)
