"""Each in a process of its own, since PyTorch is imported once in a process."""

import subprocess
import sys

import pytest
import torch

from fer_cli.execution import deferring

tried = pytest.mark.skipif(
    not torch.__version__.startswith(deferring._TRIED), reason=f"PyTorch {torch.__version__} starts as it is"
)
DEFERRED = """
import sys
from fer_cli.execution.deferring import defer_meta_kernels, require_meta_kernels
defer_meta_kernels()
import torch
"""
WHOLE = "assert {'torch._decomp', 'torch._refs'} <= set(sys.modules)\n"


def said_by(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@tried
def test_torch_starts_without_the_kernels_of_meta_tensors() -> None:
    modules = said_by(DEFERRED + "print(*sys.modules)").split()
    assert "torch._meta_registrations" in modules
    assert not {"torch._decomp", "torch._refs", "torch._dynamo"} & set(modules)


COMPUTED = """
torch.manual_seed(0)
generator = torch.Generator().manual_seed(1)
volume = torch.rand(2, 1, 8, 8, 8, generator=generator, requires_grad=True)
network = torch.nn.Sequential(
    torch.nn.Conv3d(1, 3, 3), torch.nn.BatchNorm3d(3), torch.nn.ReLU(), torch.nn.ConvTranspose3d(3, 1, 3)
)
found = network(volume).softmax(-1)
optimizer = torch.optim.AdamW(network.parameters())
found.square().sum().backward()
optimizer.step()
with torch.inference_mode():
    after = network(volume).logsumexp(1)
with torch.device("meta"):
    planned = torch.nn.Conv3d(1, 3, 3)
print(found.sum().item(), volume.grad.sum().item(), after.sum().item(), planned.weight.shape)
"""


def test_what_is_computed_is_the_same() -> None:
    assert said_by(DEFERRED + COMPUTED) == said_by("import torch\n" + COMPUTED)


@tried
def test_what_needs_them_gets_them() -> None:
    meta = "assert torch.fft.rfft(torch.zeros(4, device='meta')).shape == (3,)\n"
    said_by(DEFERRED + "require_meta_kernels()\n" + WHOLE + meta)
    said_by(DEFERRED + "from torch._meta_registrations import meta_fft_r2c\n" + WHOLE + meta)
    said_by(DEFERRED + "assert torch.compile(lambda x: x * 2, backend='eager')(torch.ones(1)) == 2\n" + WHOLE + meta)


@tried
def test_a_user_s_own_code_has_them() -> None:
    own = "from fer_cli.network.attached.own_code import importing\nwith importing('own', None): pass\n"
    said_by(DEFERRED + own + WHOLE)


@pytest.mark.parametrize("told", ["'2.99.0'", "metadata.distribution('no-such').version"])
def test_another_version_of_torch_starts_as_it_is(told: str) -> None:
    other = f"from importlib import metadata\nmetadata.version = lambda name: {told}\n"
    said_by(other + DEFERRED + "assert type(torch._meta_registrations).__name__ == 'module'\n" + WHOLE)


def test_it_can_be_required_before_and_without_torch() -> None:
    lines = DEFERRED.splitlines()
    said_by("\n".join([*lines[:4], "require_meta_kernels()", "import torch", WHOLE]))
    said_by("\n".join([*lines[:3], "require_meta_kernels()", "import torch", WHOLE]))


@tried
def test_no_other_finder_is_passed_over() -> None:
    """The import of the compiler ends the deferring in the middle of a search."""
    said_by(
        DEFERRED + "class Next:\n    asked = []\n"
        "    def find_spec(self, name, path, target=None):\n        self.asked.append(name)\n"
        "sys.meta_path.insert(1, Next())\nimport torch._dynamo\n"
        "assert 'torch._dynamo' in Next.asked\n" + WHOLE
    )
