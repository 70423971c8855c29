"""Turning and stretching shapes: in columns, as training does, and voxel by voxel with PyTorch's `grid_sample` in 3D.

Run: python benchmarks/augmentation.py [--batch 32] [--steps 9] [--threads 1]

Both forms vary the same random grids, in turn. Prints a Markdown table of the fastest of each, and how far they differ.
"""

import argparse
import time

import torch
from torch.nn import functional

from fer_cli.data.augmentation import Augmentation, resample
from machine import cpu_name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    grids = (torch.rand(options.batch, 1, 32, 32, 32, generator=generator) < 0.08).float()
    drawn = Augmentation(rotation=10.0, stretch=0.15).draw(options.batch, generator)
    forms = {"voxel by voxel": voxel_by_voxel, "in columns": resample}
    fastest = dict.fromkeys(forms, float("inf"))
    for _ in range(options.steps):
        for name, form in forms.items():
            started = time.perf_counter()
            form(grids, drawn.angles, drawn.scales)
            fastest[name] = min(fastest[name], time.perf_counter() - started)
    one, two = (form(grids, drawn.angles, drawn.scales) for form in forms.values())
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, batch {options.batch}\n")
    print("| form | ms a shape |\n|---|---|")
    for name, seconds in fastest.items():
        print(f"| {name} | {1000 * seconds / options.batch:.3f} |")
    print(f"\nLargest difference {(one - two).abs().max():.1e}.")


def voxel_by_voxel(grids: torch.Tensor, angles: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The same by an affine map of all three axes."""
    cos, sin = torch.cos(angles), torch.sin(angles)
    # `affine_grid` has the last axis first: rows and columns are z, y, x; it maps places of the result to the source.
    maps = torch.zeros(len(angles), 3, 4)
    maps[:, 0, 0] = 1 / scales[:, 2]
    # Places run from −1 to 1 along each axis, a turn is one of voxels: lengths of x and y enter where they differ.
    x, y = grids.shape[2:4]
    maps[:, 1, 1], maps[:, 1, 2] = cos / scales[:, 1], -sin * (x / y) / scales[:, 1]
    maps[:, 2, 1], maps[:, 2, 2] = sin * (y / x) / scales[:, 0], cos / scales[:, 0]
    places = functional.affine_grid(maps.to(grids), list(grids.shape), align_corners=False)
    return functional.grid_sample(grids, places, align_corners=False)


if __name__ == "__main__":
    main()
