"""fer explains how a 3D convolutional network recognises a shape, and why it fails.

A frozen classifier of volumes, a feedback network that reconstructs the input from any of its
layers, and k-means codebooks over the filter space of both, after Islam et al. ("Interpretation
of Deep CNN Recognition with Filter Space Clustering in Feature Extraction and Reconstruction",
CVPR Workshops 2018).

For Python `load_run` opens a finished run, `attach` explains a network in memory, and `save_volumes` writes its data;
see `docs/api.md`. They are loaded when first asked for, since they need torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fer_cli.run import attach as attach
    from fer_cli.run import load_run as load_run
    from fer_cli.run import save_volumes as save_volumes

__version__ = "0.1.0"
_API = ("attach", "load_run", "save_volumes")
__all__ = ["__version__", *_API]


def __getattr__(name: str) -> Any:
    """Import names on first use (PEP 562)."""
    if name in _API:
        return getattr(import_module("fer_cli.run"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
