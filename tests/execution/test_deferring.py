"""Each in a process of its own, since PyTorch is imported once in a process."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fer_cli.execution import deferring

tried = pytest.mark.skipif(
    not torch.__version__.startswith(deferring._TRIED), reason=f"PyTorch {torch.__version__} starts as it is"
)
DEFERRED = """
import sys
from fer_cli.execution.deferring import allow_deferring, defer_meta_kernels, require_meta_kernels
allow_deferring()
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


@tried
def test_no_paths_of_all_modules_are_resolved_to_find_the_module_of_an_operation() -> None:
    known = said_by(DEFERRED + "import inspect\nprint(len(inspect.modulesbyfile))")
    assert int(known) < 50 < int(said_by("import torch, inspect\nprint(len(inspect.modulesbyfile))"))
    told = (
        "import inspect\nprint(*(sys.modules[name].__file__ == file for file, name in inspect.modulesbyfile.items()))"
    )
    assert said_by(DEFERRED + told).split() == ["True"] * int(known)


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


@tried
@pytest.mark.parametrize(
    "need",
    [
        "assert torch.ops.prims.sum is torch.ops.prims.sum",
        "torch.ops.rngprims.philox_rand",
        "from torch.distributed.tensor import DTensor",
        "torch.jit.trace(lambda volume: volume * 2, torch.ones(2))",
        "torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.jagged)",
    ],
)
def test_operations_that_they_register_are_found(need: str) -> None:
    said_by(DEFERRED + need + "\n" + WHOLE + "assert type(torch.ops.prims).__name__ == '_OpNamespace'\n")


UNCHANGED = "assert type(torch._meta_registrations).__name__ == 'module'\n" + WHOLE


@pytest.mark.parametrize("told", ["__version__ = '2.99.0'", "", None])
def test_another_version_of_torch_starts_as_it_is(told: str | None, tmp_path: Path) -> None:
    """The version is read from the package that will be imported, whatever pip has noted of another."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    if told is not None:
        (tmp_path / "torch" / "version.py").write_text(f"{told}\n")
    before = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
    said_by(before + DEFERRED + "assert sys.meta_path[0].__class__.__module__ != 'fer_cli.execution.deferring'\n")


def test_elsewhere_than_in_a_command_torch_starts_as_it_is() -> None:
    said_by(DEFERRED.replace("allow_deferring()\n", "") + UNCHANGED)


def test_a_plugin_of_torch_finds_it_whole(tmp_path: Path) -> None:
    """Its code runs within `import torch`."""
    (tmp_path / "plugin.py").write_text(
        "import torch\ndef load():\n    torch.fft.rfft(torch.zeros(4, device='meta'))\n"
    )
    (tmp_path / "plugin-1.0.dist-info").mkdir()
    (tmp_path / "plugin-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (tmp_path / "plugin-1.0.dist-info" / "entry_points.txt").write_text("[torch.backends]\nplugin = plugin:load\n")
    said_by(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n" + DEFERRED + UNCHANGED)


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
