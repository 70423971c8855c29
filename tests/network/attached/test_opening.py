"""The user's callable and weights: found, built, fitted, refused; and no code runs that was not allowed."""

import importlib.util
import json
import pickle
import py_compile
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import attachables
from attachables import Plain
from fer_cli.data.volumes import InputSpec
from fer_cli.errors import InputError, UsageError
from fer_cli.network.attached.classifier import attach_backbone
from fer_cli.network.attached.model_file import Origin
from fer_cli.network.attached.opening import allow_artifact, open_classifier
from fer_cli.network.attached.permission import Recorded, allow, permitted, record_path, require_writable
from fer_cli.network.attached.source import Source
from fer_cli.network.attached.undisturbed import called, undisturbed
from fer_cli.network.attached.weights_file import fit_state, read_state
from fer_cli.network.backbone import Level
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.history import write_history
from fer_cli.storage.schema import MODEL

CPU = torch.device("cpu")
NETS = Path(attachables.__file__)


@pytest.fixture(autouse=True)
def own_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return record_path()


def opened(network: str, **given: object):
    named = {"kwargs": None, "weights": None, "transform": None, **given}
    return open_classifier(network, device=CPU, **named)  # type: ignore[arg-type]


def test_a_callable_of_a_file_or_a_module_is_built_with_its_arguments() -> None:
    of_file = opened(f"{NETS}:Plain", kwargs='{"classes": 5}')
    assert of_file.module.fc.out_features == 5
    assert not of_file.module.training
    assert not any(parameter.requires_grad for parameter in of_file.module.parameters())
    of_module = opened("torch.nn:Linear", kwargs='{"in_features": 2, "out_features": 3}')
    assert isinstance(of_module.module, nn.Linear)


def test_what_is_no_such_callable_is_refused_in_the_users_terms(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import torch\nraise ValueError('bad\\nday')\n")
    refusals = {
        f"{NETS}:Plian": r"has no 'Plian'\. Near: Plain",
        f"{NETS}:needs": r"needs\(width: int, depth: int = 2\).* missing a required argument: 'width'\. Give --kwargs",
        f"{NETS}:lazy": r"2\.weight has no shape yet\. Run the network once",
        f"{NETS}:text": r"text returned a str, not a torch\.nn\.Module",
        f"{NETS}:CLASSES_OF_NOBODY": "has no 'CLASSES_OF_NOBODY'",
        "nets.py": "names no callable. Give PATH.py:callable",
        "nowhere/nets.py:build": r"nowhere/nets\.py:build: there is no such file",
        "no_such_package.nets:build": "cannot be imported: ModuleNotFoundError.*Install it",
        f"{broken}:build": r"broken\.py cannot be imported: ValueError: bad day",
        "model.onnx": "ONNX graph has no modules to tap",
        "best.pt": r"holds weights, not the network; give PATH\.py:callable and this file by --weights",
        f"{'x' * 5000}.py:build": "there is no such file",
        "a-b:c": "neither a .py file nor the name of a module",
    }
    for network, said in refusals.items():
        with pytest.raises((UsageError, InputError), match=said) as caught:
            opened(network)
        assert "\n" not in str(caught.value)
    for kwargs, said in (
        ("[1]", "a JSON list"),
        ('{"classes": ' + "[" * 100_000, "no JSON"),
        ("{", "no JSON"),
        ('{"klasses": 2}', "unexpected keyword argument 'klasses'"),
    ):
        with pytest.raises(UsageError, match=said):
            opened(f"{NETS}:Plain", kwargs=kwargs)


@pytest.mark.parametrize("form", ["pt", "safetensors", "nested", "prefixed", "lightning"])
def test_weights_are_read_from_the_usual_files(form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = Plain().state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    elif form == "prefixed":
        torch.save(OrderedDict((f"module.{name}", tensor) for name, tensor in state.items()), path)
    elif form == "lightning":
        inner = {f"net.backbone.{name}": tensor for name, tensor in state.items()}
        torch.save({"epoch": 3, "state_dict": inner, "hyper_parameters": {"lr": 0.1}}, path)
    else:
        torch.save({"model_state_dict": state} if form == "nested" else state, path)
    found = opened(f"{NETS}:Plain", weights=path)
    for name, tensor in found.module.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert [("prefix" in note) for note in found.notes] == ([True] if form in ("prefixed", "lightning") else [])
    assert found.origin.weights == path
    assert found.origin.stale_weights() is None
    torch.save(state, path.with_suffix(".other"))
    path.write_bytes(path.with_suffix(".other").read_bytes() + b"x")
    assert found.origin.stale_weights() == path


def test_weights_that_do_not_fit_are_counted_and_named(tmp_path: Path) -> None:
    state = Plain(classes=4).state_dict()
    del state["c2.bias"]
    state["extra.weight"] = torch.zeros(1)
    path = tmp_path / "w.pt"
    torch.save(state, path)
    said = (
        r"6 keys: 1 key missing \(c2\.bias\); 1 key unknown \(extra\.weight\); 2 keys of another shape "
        r"\(fc\.weight: \(4, 192\) in the file, \(3, 192\) in the network\)"
    )
    with pytest.raises(UsageError, match=said):
        fit_state(Plain(), read_state(path), path)


def test_tensors_of_another_kind_are_refused_in_one_line(tmp_path: Path) -> None:
    state = Plain().state_dict()
    path = tmp_path / "w.pt"
    weight = state["c1.bias"]
    refusals: dict[str, torch.Tensor] = {
        r"1 key of another type \(c1\.bias: torch\.complex64 in the file\)": weight.to(torch.complex64),
        r"1 key of another type \(c1\.bias: torch\.int64 in the file\)": weight.long(),
        r"'c1\.bias' as no plain tensor": weight.to_sparse(),
    }
    for said, tensor in refusals.items():
        torch.save({**state, "c1.bias": tensor}, path)
        with pytest.raises((UsageError, InputError), match=said):
            fit_state(Plain(), read_state(path), path)
    itself: dict[str, object] = {}
    itself["state_dict"] = itself
    torch.save(itself, path)
    with pytest.raises(InputError, match="holds no tensors, but state_dict"):
        read_state(path)
    path.write_bytes(bytes(range(7, 250)) * 2)
    with pytest.raises(InputError, match=r"is damaged, or no file of torch\.save"):
        read_state(path)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/fer-was-here"),))


def test_files_that_are_no_plain_state_are_refused_with_the_way_out(tmp_path: Path) -> None:
    def file(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    torch.save(Plain(), tmp_path / "whole.pt")
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.trace(Plain(pooled=6).eval(), torch.rand(1, 1, 12, 8, 16)), tmp_path / "script.pt")
    refusals = {
        tmp_path / "whole.pt": r"holds more than tensors, and reading that could run code.*Convert it where you trust "
        r"it: torch\.save\(torch\.load\('.*/whole\.pt', weights_only=False\)",
        tmp_path / "evil.pt": "holds more than tensors",
        tmp_path / "empty.pt": "holds no tensors, but epoch",
        tmp_path / "script.pt": "TorchScript archive.*state dict of the original",
        file("model.h5", b"\x89HDF\r\n\x1a\n"): "an HDF5 file; --weights takes a state dict",
        file("m.onnx", b"abc"): "ONNX model",
        file("damaged.pt", b"PK\x03\x04abc"): "damaged, or no file of torch.save",
        file("damaged.safetensors", b"abc"): "damaged, or no safetensors file",
        file("old.pkl", pickle.dumps(Evil())): "holds more than tensors|damaged",
        tmp_path / "nowhere.pt": "cannot be read: No such file",
    }
    for path, said in refusals.items():
        with pytest.raises(InputError, match=said) as caught:
            read_state(path)
        assert "\n" not in str(caught.value)
    assert not Path("/tmp/fer-was-here").exists()


# Permission


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "parts_of_nets.py").write_text("from torch import nn\ndef part():\n    return nn.Conv3d(1, 2, 3)\n")
    path = folder / "nets.py"
    path.write_text("from parts_of_nets import part\ndef build(width=2):\n    return part()\n")
    return path


def recorded(path: Path, kwargs: str | None = None) -> Recorded:
    source = Source.parse(f"{path}:build", kwargs)
    source.resolve()
    return Recorded(source, source.digest())


def test_only_allowed_code_is_permitted_and_only_as_it_was(
    nets: Path, own_record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(nets.parent)
    wanted = recorded(nets)
    with pytest.raises(
        UsageError, match=r"code that was not allowed on this machine.*'fer allow model\.h5 --network PATH"
    ):
        permitted(wanted, Path("model.h5"))
    allow(wanted, wanted.source)
    assert permitted(wanted, Path("model.h5")) == wanted.source
    assert own_record.stat().st_mode & 0o077 == 0
    files = json.loads(own_record.read_text())[0]["files"]
    assert {Path(file).name for file in files} == {"nets.py", "parts_of_nets.py"}
    other = Recorded(Source(wanted.source.where, "build", {"width": 3}), wanted.digest)
    named = Recorded(Source("os", "system", {"command": "touch /tmp/x"}), wanted.digest)
    for different in (other, named):
        with pytest.raises(UsageError, match="was not allowed"):
            permitted(different, Path("model.h5"))
    (nets.parent / "parts_of_nets.py").write_text("raise SystemExit\n")
    with pytest.raises(UsageError, match=r"parts_of_nets\.py is not the code that was allowed"):
        permitted(wanted, Path("model.h5"))


def test_code_that_lies_elsewhere_is_permitted_where_it_was_allowed(nets: Path, tmp_path: Path) -> None:
    wanted = recorded(nets)
    moved = tmp_path / "moved.py"
    moved.write_text("from torch import nn\ndef build(width=2):\n    return nn.Conv3d(1, 2, 3)\n")
    source = Source.parse(f"{moved}:build")
    source.resolve()
    allow(wanted, source)
    assert permitted(wanted, Path("model.h5")).where == str(moved)


@pytest.mark.parametrize("content", ["", "[", "{}", "[1]", '[{"for": 1}]'])
def test_a_damaged_record_allows_nothing(content: str, nets: Path, own_record: Path) -> None:
    own_record.parent.mkdir(parents=True)
    own_record.write_text(content)
    with pytest.raises(UsageError, match="was not allowed"):
        permitted(recorded(nets), Path("model.h5"))
    allow(recorded(nets), recorded(nets).source)
    assert permitted(recorded(nets), Path("model.h5"))


def test_a_name_from_an_artifact_is_never_looked_up_in_the_current_folder(
    nets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recorded(nets)
    relative = Recorded(Source("nets.py", "build", {}), wanted.digest)
    monkeypatch.chdir(nets.parent)
    with pytest.raises(UsageError, match="was not allowed"):
        permitted(relative, Path("model.h5"))


# What runs is what was allowed


@pytest.fixture
def forget() -> Callable[[], None]:
    """Forgets the code that was imported, as another process would."""

    def forget() -> None:
        for name in [name for name in sys.modules if "of_nets" in name or name.startswith("fer_attached_")]:
            del sys.modules[name]

    return forget


def allowed_source(path: Path, forget: Callable[[], None]) -> Source:
    """The callable `build` of a file as a later process gets it: attached, allowed and permitted."""
    source = Source.parse(f"{path}:build")
    source.build()
    wanted = Recorded(source, source.digest())
    allow(wanted, source)
    forget()
    return permitted(wanted, Path("model.h5"))


def test_bytecode_beside_the_code_is_not_run(nets: Path, tmp_path: Path, forget: Callable[[], None]) -> None:
    source = allowed_source(nets, forget)
    for path in (nets, nets.with_name("parts_of_nets.py")):
        forged = tmp_path / "forged.py"
        forged.write_text(f"open({str(tmp_path / path.stem)!r}, 'w')\n{path.read_text()}")
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(forged), importlib.util.cache_from_source(str(path)), invalidation_mode=mode)
    source.build()
    assert not (tmp_path / "nets").exists()
    assert not (tmp_path / "parts_of_nets").exists()


def test_what_comes_to_lie_before_an_allowed_file_is_not_run(
    nets: Path, tmp_path: Path, forget: Callable[[], None]
) -> None:
    source = allowed_source(nets, forget)
    (nets.parent / "parts_of_nets").mkdir()
    (nets.parent / "parts_of_nets" / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UsageError, match=r"parts_of_nets/__init__\.py is about to run, but is not among"):
        source.build()
    assert not (tmp_path / "ran").exists()


def test_code_is_compared_where_it_is_imported_from(nets: Path, tmp_path: Path, forget: Callable[[], None]) -> None:
    """Imports inside functions, links to files elsewhere and folders on the path count like any other code."""
    for name in ("late", "linked", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}_of_nets.py").write_text("VALUE = 1\n")
    (nets.parent / "linked_of_nets.py").symlink_to(tmp_path / "linked" / "linked_of_nets.py")
    (nets.parent / "late_of_nets.py").write_text("VALUE = 1\n")
    nets.write_text(
        f"import sys\nfrom torch import nn\nimport linked_of_nets\nsys.path.append({str(tmp_path / 'elsewhere')!r})\n"
        "import elsewhere_of_nets\ndef build():\n    import late_of_nets\n    return nn.Conv3d(1, 2, 3)\n"
    )
    source = Source.parse(f"{nets}:build")
    source.build()
    wanted = Recorded(source, source.digest())
    allow(wanted, source)
    forget()
    sys.path.remove(str(tmp_path / "elsewhere"))
    assert len(source.files()) == 4
    changed = [nets.parent / "late_of_nets.py", tmp_path / "linked/linked_of_nets.py"]
    for path in (*changed, tmp_path / "elsewhere/elsewhere_of_nets.py"):
        assert permitted(wanted, Path("model.h5"))
        path.write_text("raise SystemExit\n")
        with pytest.raises(UsageError, match=r"_of_nets\.py is not the code that was allowed"):
            permitted(wanted, Path("model.h5"))
        path.write_text("VALUE = 1\n")


def test_code_that_a_pass_imports_runs_as_it_was_allowed(
    nets: Path, tmp_path: Path, forget: Callable[[], None]
) -> None:
    late = nets.parent / "late_of_nets.py"
    late.write_text("VALUE = 1\n")
    nets.write_text(
        "from torch import nn\nclass Late(nn.Conv3d):\n def forward(self, x):\n  import late_of_nets\n"
        "  return super().forward(x).mean((2, 3, 4)) * late_of_nets.VALUE\ndef build():\n return Late(1, 3, 3)\n"
    )
    read = InputSpec(1, (6, 5, 4))
    x = torch.rand(4, *read.volume)
    found = opened(f"{nets}:build")
    with pytest.raises(UsageError, match="none of the model's 0 activations"):  # it has the answer alone
        attach_backbone(found.module, x, read, ("a", "b", "c"), source=found.source)
    found.allow()
    assert late in found.source.files()
    forget()
    source = permitted(found.origin.recorded, Path("model.h5"))
    module = source.build()
    forget()
    late.write_text("open('ran', 'w')\nVALUE = 1\n")
    with (
        pytest.raises(UsageError, match=r"late_of_nets\.py is about to run, but is not among"),
        undisturbed(module, importing=source.importing),
    ):
        called(module, x)


def test_every_module_of_a_package_outside_site_packages_is_compared(
    nets: Path, monkeypatch: pytest.MonkeyPatch, forget: Callable[[], None]
) -> None:
    package = nets.parent / "package_of_nets"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("from torch import nn\n")
    (package / "nets.py").write_text("from .parts import nn\ndef build():\n    return nn.Conv3d(1, 2, 3)\n")
    monkeypatch.syspath_prepend(nets.parent)
    source = Source.parse("package_of_nets.nets:build")
    source.build()
    assert {path.name for path in source.files()} == {"__init__.py", "nets.py", "parts.py"}


def test_what_ends_the_program_is_an_error_of_the_code(nets: Path) -> None:
    nets.write_text("def build():\n    raise SystemExit(0)\n")
    with pytest.raises(UsageError, match=r"build raised SystemExit: 0"):
        Source.parse(f"{nets}:build").build()
    other = nets.with_name("script.py")
    other.write_text("import argparse\nraise SystemExit('usage: script.py DATA')\n")
    with pytest.raises(InputError, match=r"cannot be imported: SystemExit: usage"):
        Source.parse(f"{other}:build").build()


def artifact_of(recorded: Recorded, path: Path) -> Path:
    """A model.h5 that names a callable, as far as `fer allow` reads it."""
    level = {**vars(Level("c1", 2, (4, 4, 4))), "shape": [4, 4, 4]}
    spec = {"levels": [level], "input": InputSpec(1, (4, 4, 4)).to_json(), "classes": ["a", "b"]}
    network = {"kind": "attached", **spec, **Origin(recorded).to_json()}
    with ArtifactWriter(path, MODEL, config={"network": network}, parents={"voxels": "0" * 32}) as writer:
        writer.write("validation/index", np.zeros(1, np.int64))
        write_history(writer, [])
    return path


def test_an_artifact_alone_names_no_code(nets: Path, tmp_path: Path, forget: Callable[[], None]) -> None:
    marker = tmp_path / "ran"
    nets.write_text(
        f"from torch import nn\ndef build(width):\n    open({str(marker)!r}, 'w').close()\n    return nn.ReLU()\n"
    )
    own = Recorded(Source(str(nets), "build", {"width": 3}), "0" * 64)
    path = artifact_of(own, tmp_path / "own.h5")
    with pytest.raises(UsageError, match=r"asks for .*nets\.py:build\(width=3\), which you have not named.*--network"):
        allow_artifact(path, network=None, transform=None)
    with pytest.raises(UsageError, match=r"nets\.py:build\(width=3\) builds, code that was not allowed"):
        permitted(own, path)
    assert not marker.exists()
    (allowed,) = allow_artifact(path, network=f"{nets}:build", transform=None)
    assert allowed == {"where": str(nets), "name": "build", "kwargs": {"width": 3}, "files": [str(nets)]}
    nets.write_text(nets.read_text() + "# read again\n")
    assert allow_artifact(path, network=None, transform=None)


def test_python_itself_builds_no_network(tmp_path: Path) -> None:
    evil = Recorded(Source("os", "system", {"command": f"touch {tmp_path / 'ran'}"}), "0" * 64)
    path = artifact_of(evil, tmp_path / "evil.h5")
    for network in (None, "os:system"):
        with pytest.raises(UsageError, match="which you have not named" if network is None else "is of Python itself"):
            allow_artifact(path, network=network, transform=None)
    assert not (tmp_path / "ran").exists()


def test_a_record_that_cannot_be_written_is_noticed_before(own_record: Path) -> None:
    require_writable()
    own_record.parent.rmdir()
    own_record.parent.write_text("a file")
    with pytest.raises(InputError, match=r"the record of allowed networks, cannot be written"):
        require_writable()


def test_a_network_of_monai_is_tapped_at_its_stages() -> None:
    pytest.importorskip("monai", reason="monai is not installed (pip install monai)")
    kwargs = {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [4, 6, 8, 10], "spatial_dims": 3}
    kwargs |= {"n_input_channels": 1, "num_classes": 3, "conv1_t_size": 5, "conv1_t_stride": 2}
    found = opened("monai.networks.nets:ResNet", kwargs=json.dumps(kwargs))
    read = InputSpec(1, (32, 32, 32))
    volumes = (torch.rand(6, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    backbone, candidates = attach_backbone(found.module, volumes, read, ("a", "b", "c"), source=found.source)
    levels = {level.name: level.shape for level in backbone.spec.levels}
    assert list(levels) == ["conv1", "maxpool", "layer2", "layer3", "layer4"]
    assert list(levels.values()) == [(16,) * 3, (8,) * 3, (4,) * 3, (2,) * 3, (1,) * 3]
    assert "layer1" in {candidate.name for candidate in candidates}
    assert backbone.linear_head() is not None
    logits = backbone.logits(volumes)
    for level, feature in backbone.features(volumes, list(levels)).items():
        assert torch.equal(backbone.logits(volumes, patch={level: feature}), logits)
    assert backbone.untrained().fingerprint != backbone.fingerprint
