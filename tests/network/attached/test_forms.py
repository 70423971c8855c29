"""Networks as exported programs, as MONAI bundles, and weights as folders; and that none of them runs unasked."""

import json
import re
import sys
import warnings
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

import attachables
from attachables import Plain, Residual
from fer_cli.data.volumes import InputSpec
from fer_cli.errors import InputError, UsageError
from fer_cli.network.attached.classifier import attach_backbone
from fer_cli.network.attached.forms import source_of
from fer_cli.network.attached.opening import OpenedClassifier, open_classifier
from fer_cli.network.attached.own_code import file_digest, importing
from fer_cli.network.attached.permission import Recorded, allow, permitted
from fer_cli.network.attached.weights_file import read_state

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MONAI's import
CPU = torch.device("cpu")
NETS = Path(attachables.__file__)
SIDES = (12, 8, 16)
DENSE = {"_target_": "DenseNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3, "init_features": 4}


@pytest.fixture(autouse=True)
def own_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def opened(network: object, **given: object) -> OpenedClassifier:
    named = {"kwargs": None, "weights": None, "transform": None, **given}
    return open_classifier(str(network), device=CPU, **named)  # type: ignore[arg-type]


def exported(
    module: nn.Module, path: Path, *, count: object = torch.export.Dim.DYNAMIC, training: bool = False
) -> Path:
    volumes = torch.rand(2, 1, *SIDES)
    program = torch.export.export(module.train(training), (volumes,), dynamic_shapes=({0: count} if count else None,))
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return exported(Residual(), tmp_path_factory.mktemp("exported") / "residual.pt2")


@pytest.fixture
def trap(program: Path, tmp_path: Path) -> Path:
    """A program that makes the file `ran` beside it when it is loaded."""
    path = tmp_path / "trap.pt2"
    with zipfile.ZipFile(program) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("models/model.json"):
                expression = f"__import__('pathlib').Path('{tmp_path / 'ran'}').touch() or "
                content = re.sub(rb'("expr_str": ")(Symbol)', rb"\1" + expression.encode() + rb"\2", content, count=1)
            target.writestr(name, content)
    return path


def test_an_exported_program_is_tapped_as_the_network_it_was_made_from(program: Path) -> None:
    torch.manual_seed(0)
    original, found = Residual().eval(), opened(program)
    volumes = torch.rand(4, 1, *SIDES)
    given = {"input": InputSpec(1, SIDES, "intensity"), "classes": ("a", "b", "c"), "output": "scores"}
    ours, _ = attach_backbone(found.module, volumes, **given, source=found.source)
    theirs, _ = attach_backbone(original, volumes, **given)
    levels = [level.name for level in ours.spec.levels]
    assert "pool" in levels
    assert len(levels) >= 3
    shared = [level for level in theirs.spec.levels if level.name in levels]
    assert {level.name for level in shared} >= {"pool", "down"} & set(levels)
    features, expected = ours.features(volumes), theirs.features(volumes, [level.name for level in shared])
    for level in shared:
        torch.testing.assert_close(features[level.name], expected[level.name])
    patched = ours.logits(volumes.roll(1, 0), patch={levels[0]: features[levels[0]]})
    assert torch.equal(patched, ours.logits(volumes))
    assert len(ours.logits(volumes[:1])) == 1


def test_a_program_that_is_of_no_use_is_refused_with_what_to_do(
    program: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Two(nn.Module):
        def forward(self, volumes: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return (volumes * mask).mean((2, 3, 4))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learning = exported(Residual(), tmp_path / "learning.pt2", training=True)
    fixed = exported(Plain(pooled=6), tmp_path / "fixed.pt2", count=None)
    volumes = torch.rand(2, 1, *SIDES)
    torch.export.save(torch.export.export(Two(), (volumes, volumes)), tmp_path / "two.pt2")
    (tmp_path / "damaged.pt2").write_bytes(program.read_bytes()[:-500])
    (tmp_path / "text.pt2").write_text("text")
    for name, said in {
        learning: r"was exported in training mode.*after model\.eval\(\): torch\.export\.export",
        fixed: r"was exported for batches of 2 alone.*for any number: torch\.export\.export",
        tmp_path / "two.pt2": "takes 2 inputs",
        tmp_path / "damaged.pt2": r"damaged\.pt2: not a readable torch\.export file",
        tmp_path / "text.pt2": r"text\.pt2: not a readable torch\.export file",
        tmp_path / "none.pt2": "there is no such file",
    }.items():
        caplog.clear()
        with pytest.raises((UsageError, InputError), match=said) as caught:
            opened(name)
        assert "\n" not in str(caught.value)
        assert not caplog.text  # PyTorch logs a traceback of its own
    with pytest.raises(UsageError, match="takes no --kwargs"):
        opened(program, kwargs="{}")


def test_a_malicious_program_runs_only_where_the_user_names_it_as_the_network(trap: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for name in ("weights.pt", "weights.pt2", "weights.safetensors", "pytorch_model.bin"):
        renamed = tmp_path / name
        renamed.write_bytes(trap.read_bytes())
        with pytest.raises(InputError):
            read_state(renamed)
        with pytest.raises(InputError):
            opened(f"{NETS}:Plain", weights=renamed)
    asked_for = Recorded(source_of(str(trap), "", {}), "0" * 64)
    with pytest.raises(UsageError, match=r"was not allowed on this machine.*--network PATH/trap\.pt2"):
        permitted(asked_for, tmp_path / "model.h5")
    assert not ran.exists()
    opened(trap)
    assert ran.exists()  # so that the others would have shown it


def test_an_allowed_program_is_run_only_as_it_was(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.pt2"
    path.write_bytes(program.read_bytes())
    found = opened(path)
    recorded = found.origin.recorded
    assert recorded is not None
    found.allow()
    source = permitted(recorded, tmp_path / "model.h5")
    assert isinstance(source.build(), nn.Module)
    path.write_bytes(exported(Plain(pooled=6), tmp_path / "other.pt2").read_bytes())
    with pytest.raises(UsageError, match="is about to run, but is not among"):  # it changed after permission was asked
        source.build()
    with pytest.raises(UsageError, match="is not the code that was allowed"):
        permitted(recorded, tmp_path / "model.h5")


def bundle(folder: Path, network: dict[str, object], **config: object) -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    whole = {"device": "$torch.device('cpu')", "network_def": network, "network": "$@network_def.to(@device)", **config}
    (folder / "configs" / "inference.json").write_text(json.dumps(whole))
    return folder


def test_a_bundle_is_built_as_configured_with_its_weights(tmp_path: Path) -> None:
    from monai.networks.nets import DenseNet

    torch.manual_seed(1)
    small = {"block_config": [1, 1], "growth_rate": 2, "bn_size": 1}
    folder = bundle(tmp_path / "mine", DENSE | small)
    state = DenseNet(**{key: value for key, value in (DENSE | small).items() if key != "_target_"}).state_dict()
    torch.save({"model": state}, folder / "models" / "model.pt")
    for named in (folder, f"{folder}:network"):
        found = opened(named)
        assert all(torch.equal(tensor, state[name]) for name, tensor in found.module.state_dict().items())
        assert found.origin.weights == folder / "models" / "model.pt"
    for named, said in {
        f"{folder}:nothing": "has no nothing. Say which of its ids",
        f"{folder}:device": "device is a device, not a torch.nn.Module",
        tmp_path: r"has none of inference\.json",
    }.items():
        with pytest.raises((UsageError, InputError), match=said):
            opened(named)
    with pytest.raises(UsageError, match=r"keys? of another shape"):
        opened(folder, kwargs='{"network_def#out_channels": 5}')
    config = folder / "configs" / "inference.json"
    for text, said in (("{", "cannot be read"), (json.dumps({"network_def": "%other.json::net"}), "from another file")):
        config.write_text(text)
        with pytest.raises((UsageError, InputError), match=said):
            opened(folder)


def test_a_malicious_bundle_runs_only_where_the_user_names_it(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    touch = f"$__import__('pathlib').Path({str(ran)!r}).touch()"
    folder = bundle(
        tmp_path / "trap", {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2, "_requires_": touch}
    )
    wanted = Recorded(source_of(str(folder), "network_def", {}), "0" * 64)
    with pytest.raises(UsageError, match=r"was not allowed on this machine.*--network PATH/trap:network_def"):
        permitted(wanted, tmp_path / "model.h5")
    with pytest.raises(InputError, match=r"has no model\.safetensors"):
        opened(f"{NETS}:Plain", weights=folder)
    assert not ran.exists()
    found = opened(folder)
    assert ran.exists()
    ran.unlink()
    found.allow()
    recorded = found.origin.recorded
    assert recorded is not None
    source = permitted(recorded, tmp_path / "model.h5")
    config = folder / "configs" / "inference.json"
    assert isinstance(source.build(), nn.Linear)
    config.write_text(config.read_text() + "\n")
    ran.unlink()
    with pytest.raises(UsageError, match="is about to run, but is not among"):
        source.build()
    with pytest.raises(UsageError, match="is not the code that was allowed"):
        permitted(recorded, tmp_path / "model.h5")
    assert not ran.exists()


def test_code_in_a_bundles_folder_is_compared_too(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "own", {"_target_": "scripts.mine.build"})
    (folder / "scripts").mkdir()
    (folder / "scripts" / "__init__.py").touch()
    script = folder / "scripts" / "mine.py"
    script.write_text("from torch import nn\n\ndef build():\n    return nn.Linear(3, 2)\n")
    found = opened(folder)
    assert script in found.source.files()
    recorded = found.origin.recorded
    assert recorded is not None
    allow(recorded, found.source)
    assert permitted(recorded, tmp_path / "model.h5").allowed is not None
    script.write_text(script.read_text().replace("3", "4"))
    with pytest.raises(UsageError, match=r"mine\.py is not the code that was allowed"):
        permitted(recorded, tmp_path / "model.h5")


def test_weights_in_a_folder_are_read_whole_or_in_parts(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = Plain().state_dict()
    names = list(state)
    whole, parts, bins = tmp_path / "whole", tmp_path / "parts", tmp_path / "bins"
    for folder in (whole, parts, bins):
        folder.mkdir()
    save_file(state, whole / "model.safetensors")
    torch.save(state, bins / "pytorch_model.bin")
    halves = {"model-1-of-2.safetensors": names[:2], "model-2-of-2.safetensors": names[2:]}
    for file, some in halves.items():
        save_file({name: state[name] for name in some}, parts / file)
    index = parts / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, some in halves.items() for name in some}}))
    for folder in (whole, parts, bins):
        found = opened(f"{NETS}:Plain", weights=folder)
        assert all(torch.equal(tensor, state[name]) for name, tensor in found.module.state_dict().items())
        assert found.origin.stale_weights() is None
    assert found.origin.weights_digest == file_digest(bins / "pytorch_model.bin")
    of_parts = opened(f"{NETS}:Plain", weights=parts).origin
    save_file({name: state[name] + 1 for name in names[2:]}, parts / "model-2-of-2.safetensors")
    assert of_parts.stale_weights() == parts
    for content in ("{", '{"weight_map": {"c1.weight": "../../secret"}}', '{"weight_map": {}}', "[]"):
        index.write_text(content)
        with pytest.raises(InputError, match=r"index\.json"):
            read_state(parts)
    with pytest.raises(InputError, match=r"has no model\.safetensors or pytorch_model\.bin; name the file"):
        read_state(tmp_path)


def test_own_code_may_replace_the_finders_of_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "replaces_finders.py").write_text("import sys\nsys.meta_path = sys.meta_path[1:]\n")
    with importing(tmp_path, None):
        import_module("replaces_finders")
    assert "replaces_finders" in sys.modules
