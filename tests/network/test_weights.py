from pathlib import Path

import numpy as np
import pytest
import torch

from fer_cli.errors import ArtifactError
from fer_cli.network.weights import load_network, load_state_arrays, state_arrays
from fer_cli.run import Run
from fer_cli.storage.artifact import Artifact, open_artifact
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.schema import MODEL
from networks import grids, network


def test_state_survives_arrays_bit_for_bit() -> None:
    source, target = network(seed=1), network(seed=2)
    arrays = state_arrays(source)
    assert all(array.dtype == np.float32 for array in arrays.values())
    load_state_arrays(target, {name: array.copy() for name, array in arrays.items()})
    again = state_arrays(target)
    assert list(again) == list(arrays)
    assert all(np.array_equal(again[name], arrays[name]) for name in arrays)
    occupancy = grids()
    assert torch.equal(source.backbone(occupancy), target.backbone(occupancy))


def test_arrays_that_do_not_fit_are_refused_by_name() -> None:
    built = network()
    arrays = state_arrays(built)
    bias = "backbone.blocks.output.2.bias"
    with pytest.raises(ValueError, match=f"parameter '{bias}' is missing"):
        load_state_arrays(built, {name: array for name, array in arrays.items() if name != bias})
    with pytest.raises(ValueError, match=r"parameter 'a\.new\.one' is unknown"):
        load_state_arrays(built, arrays | {"a.new.one": arrays[bias]})
    with pytest.raises(ValueError, match=rf"'{bias}' has shape \(4,\), but \(3,\) is needed"):
        load_state_arrays(built, arrays | {bias: np.zeros(4, np.float32)})


def write_model(path: Path, source: Artifact, config: dict[str, object], leave_out: str = "") -> None:
    with ArtifactWriter(path, MODEL, config=config, parents=source.parents) as writer:
        for name in source.names():
            if name != leave_out:
                writer.write(name, source.read_text(name) if name == "history" else source.read(name))


def test_network_is_read_back_from_its_artifact(run: Run, tmp_path: Path) -> None:
    built = load_network(run.model)
    for part, module in (("encoder", built.backbone), ("feedback", built.feedback)):
        arrays = state_arrays(module)
        assert sorted(f"{part}/{name}" for name in arrays) == run.model.names(f"{part}/")
        assert all(np.array_equal(array, run.model.read(f"{part}/{name}")) for name, array in arrays.items())
    assert not built.training
    layers = [spec | {"stride": 2**40} for spec in run.model.config["network"]["layers"]]
    damaged = {
        "skips voxels": (  # beyond what 64 bits hold
            {"network": run.model.config["network"] | {"layers": layers}},
            "",
        ),
        "no 'network'": ({}, ""),
        "'layers'": ({"network": {"classes": [], "resolution": 8}}, ""),
        "too deep": ({"network": run.model.config["network"] | {"resolution": 3}}, ""),
        "has shape": ({"network": run.model.config["network"] | {"classes": ["a", "b"]}}, ""),
        "'blocks.output.2.bias' is missing": (run.model.config, "encoder/blocks.output.2.bias"),
    }
    for number, (message, (config, leave_out)) in enumerate(damaged.items()):
        path = tmp_path / f"{number}.h5"
        write_model(path, run.model, config, leave_out)
        with (
            open_artifact(path, MODEL) as artifact,
            pytest.raises(ArtifactError, match=rf"{number}\.h5 is damaged: .*Run 'fer train' again") as caught,
        ):
            load_network(artifact)
        assert message.removeprefix("no ") in str(caught.value)
