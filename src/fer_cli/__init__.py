"""fer explains how a 3D convolutional network recognises a shape, and why it fails.

A frozen classifier of volumes, a feedback network that reconstructs the input from any of its
layers, and k-means codebooks over the filter space of both, after Islam et al. ("Interpretation
of Deep CNN Recognition with Filter Space Clustering in Feature Extraction and Reconstruction",
CVPR Workshops 2018).

`load_run` opens a finished run for Python; see `docs/api.md`. It is loaded when first asked for, since it needs torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fer_cli.run import load_run as load_run

__version__ = "0.1.0"
__all__ = ["__version__", "load_run"]


def __getattr__(name: str) -> Any:
    """Load what is asked for (PEP 562)."""
    if name == "load_run":
        return import_module("fer_cli.run").load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
