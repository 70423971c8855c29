"""A network of the user's own, from attaching to reports: from Python, from the command line, and one on real data."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import attachables
import fer_cli
from attachables import Plain, Residual, state_of
from fer_cli import attach, load_run, save_volumes
from fer_cli.data.dataset import open_voxels
from fer_cli.data.volumes import InputSpec
from fer_cli.errors import ArtifactError, InputError, LineageError, UsageError
from fer_cli.evaluation.baselines import not_applicable
from fer_cli.network.activations import batches, predict
from fer_cli.network.attach import AttachSettings, look_over
from fer_cli.network.attach import attach as attach_network
from fer_cli.network.attach_overview import warnings
from fer_cli.network.attached.model_file import Origin
from fer_cli.network.attached.opening import open_classifier
from fer_cli.run import Run
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.schema import MODEL
from forks import fer, forked
from test_docs import DOCS, assert_same, keys_documented, keys_of
from tiny import load_benchmark

HOWTO = Path(__file__).parents[1] / "docs" / "howto" / "attach.md"
NETS = Path(attachables.__file__)
NAMES = ["blob", "ridge", "wave"]
SIDES = (12, 8, 16)
CPU = torch.device("cpu")


def grey(count: int = 96, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Smooth volumes of three kinds; every eleventh has another kind's label."""
    generator = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, side) for side in SIDES), indexing="ij")
    labels = np.arange(count) % 3
    volumes = []
    for label in labels:
        a, b, c = generator.uniform(-0.4, 0.4, 3)
        kinds = (
            np.exp(-6 * ((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2)),
            np.exp(-12 * (x - a) ** 2),
            np.sin(4 * (z - c)),
        )
        volumes.append(kinds[label] + generator.normal(0, 0.15, SIDES))
    told = labels.copy()
    told[::11] = (told[::11] + 1) % 3
    return np.array(volumes, np.float32)[:, None], told


def trained(module: nn.Module, volumes: np.ndarray, labels: np.ndarray, key: str | None = None) -> nn.Module:
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(module.parameters(), 5e-3)
    for _ in range(40):
        returned = module(torch.from_numpy(volumes))
        loss = functional.cross_entropy(returned if key is None else returned[key], torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    return grey()


@pytest.fixture(scope="module")
def model(data: tuple[np.ndarray, np.ndarray]) -> nn.Module:
    torch.manual_seed(1)
    return trained(Residual(), data[0][:66], data[1][:66], "scores")


@pytest.fixture(scope="module")
def run(model: nn.Module, data: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of a model in memory, attached through the Python API."""
    volumes, labels = data
    samples = [
        {"image": torch.from_numpy(v), "label": int(label), "name": f"v{i}"}
        for i, (v, label) in enumerate(zip(volumes, labels, strict=True))
    ]
    folder = tmp_path_factory.mktemp("attached") / "run"
    before, modes = state_of(model), [part.training for part in model.modules()]
    gradients = [parameter.grad for parameter in model.parameters()]
    given, drawn = volumes.copy(), str((torch.get_rng_state(), np.random.get_state()))  # noqa: NPY002
    said: list[str] = []
    opened = attach(
        model,
        samples[:66],
        test=samples[66:],
        run=folder,
        classes=NAMES,
        output="scores",
        k=(6, 5, 4, 3),
        feedback_epochs=3,
        batch_size=16,
        say=said.append,
    )
    assert [line.split(":")[0] for line in said[:3]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert modes == [part.training for part in model.modules()]
    assert not any(part._forward_hooks for part in model.modules())
    assert all(now.grad is then for now, then in zip(model.parameters(), gradients, strict=True))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert np.array_equal(volumes, given)
    assert str((torch.get_rng_state(), np.random.get_state())) == drawn  # noqa: NPY002
    return opened


# From Python


def test_a_model_in_memory_is_explained_from_every_kind_of_sample(
    run: Run, model: nn.Module, data: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    model.eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(data[0][66:]))["scores"].argmax(1).numpy()
    wrong = [f"v{66 + i}" for i in np.flatnonzero(expected != data[1][66:])]
    assert run.mistakes() == wrong != []
    by_name = run.explain(wrong[0])
    volume = data[0][int(wrong[0][1:])]
    np.save(tmp_path / "case.npy", volume)
    for sample in (volume, torch.from_numpy(volume), tmp_path / "case.npy", str(tmp_path / "case.npy")):
        found = run.explain(sample, label=by_name.label)
        assert (found.predicted, found.blame, found.errors) == (by_name.predicted, by_name.blame, by_name.errors)
    assert {test.layer for test in by_name.repair} <= {"stem", "pool", "down", "relu"}
    assert [layer.name for layer in by_name.layers] == list(run.network.spec.layer_names)
    probed = run.probe(volume, run.network.spec.layer_names[0], (1, 1, 1))
    assert probed.reconstruction.shape == (1, *SIDES)
    evaluation = run.evaluate()
    assert evaluation["n_errors"] == len(wrong)
    assert evaluation["not_applicable"] == []  # it has dropout above `pool`, and `drop` feeds its last Linear


def test_a_diagnosis_is_saved_as_a_folder_or_as_one_page(run: Run, tmp_path: Path) -> None:
    found = run.explain(run.mistakes()[0])
    page = found.save(tmp_path / "folder")
    assert page == tmp_path / "folder" / "index.html"
    assert json.loads((tmp_path / "folder" / "diagnosis.json").read_text())["sample"] == found.sample
    alone = found.save(tmp_path / "why.html")
    assert alone.read_text().startswith("<!DOCTYPE html>")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "folder", alone]


def test_volumes_that_do_not_fit_are_refused(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "small.npy", np.zeros((3, 3, 3)))
    (tmp_path / "scan.nii.gz").write_bytes(b"x")
    refusals = {
        r"the array has shape \(1, 3, 3, 3\), but the network reads \(1, 12, 8, 16\)": np.zeros((3, 3, 3)),
        r"small\.npy has shape": tmp_path / "small.npy",
        r"1 values that are not finite": np.full((1, *SIDES), 0.0) + np.eye(1, 16 * 8 * 12).reshape(1, *SIDES) * np.nan,
        r"axes \(channel, x, y, z\) or \(x, y, z\); got an array of shape \(3,\)": np.zeros(3),
        r"scan\.nii\.gz cannot be turned into 12×8×16.*Give a \.npy array of shape \(1, 12, 8, 16\), or attach with": (
            tmp_path / "scan.nii.gz"
        ),
        r"no file and no sample called 'v99x'": "v99x",
    }
    for said, sample in refusals.items():
        with pytest.raises(InputError, match=said if "values" not in said else "values that are not finite"):
            run.explain(sample)


def test_a_run_is_opened_again_with_its_model_and_with_no_other(run: Run, model: nn.Module) -> None:
    folder = run.paths.model.parent
    assert load_run(folder, network=model).mistakes() == run.mistakes()
    with pytest.raises(UsageError, match=r"network in memory.*fer_cli\.load_run\('.*', network=model\)"):
        load_run(folder).mistakes()
    other = Residual()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.fc.bias.add_(0.1)
    with pytest.raises(LineageError, match="network of other weights"):
        load_run(folder, network=other).mistakes()


def test_without_test_samples_mistakes_are_those_that_validate(
    model: nn.Module, data: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    volumes, labels = data
    options = {"run": tmp_path / "a", "classes": NAMES, "output": "scores", "feedback_epochs": 1, "cluster": False}
    held = attach(model, (volumes, labels), **options)
    assert set(held.mistakes()) <= {held.voxels.names[i] for i in held.model.read("validation/index")}
    assert held.voxels.splits.count("val") == len(held.model.read("validation/index")) == 9
    with pytest.raises(ArtifactError, match=r"codebook\.h5 does not exist"):
        held.explain("train_00000")
    given = attach(
        model, (volumes[:66], labels[:66]), val=(volumes[66:], labels[66:]), **{**options, "run": tmp_path / "b"}
    )
    assert given.model.read("validation/index").tolist() == list(range(66, 96))
    assert given.mistakes()


def test_unfinished_attachments_go_on_bit_for_bit(
    model: nn.Module, data: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    save_volumes(tmp_path / "voxels.h5", data, classes=NAMES)
    settings = AttachSettings(output="scores", feedback_epochs=3, batch_size=16)
    torch.manual_seed(7)

    def go(name: str, stop_at: int | None, **given: bool) -> None:
        def stop(progress: object) -> None:
            if stop_at is not None and getattr(progress, "record", None) and progress.epoch == stop_at:  # type: ignore[attr-defined]
                raise KeyboardInterrupt

        attach_network(
            tmp_path / "voxels.h5", tmp_path / name, model, settings, Origin(), device=CPU, report=stop, **given
        )

    go("whole.h5", None)
    with pytest.raises(KeyboardInterrupt):
        go("parts.h5", 2)
    assert not (tmp_path / "parts.h5").exists()
    with pytest.raises(UsageError, match=r"holds an unfinished run\. Give --resume"):
        go("parts.h5", None)
    go("parts.h5", None, resume=True)
    ids = [open_artifact(tmp_path / name, MODEL).id for name in ("whole.h5", "parts.h5")]
    assert ids[0] == ids[1]
    assert not (tmp_path / "parts.checkpoint.h5").exists()


def test_attaching_again_starts_from_the_old_feedback_network(
    model: nn.Module, data: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    save_volumes(tmp_path / "voxels.h5", data, classes=NAMES)
    seen = []

    def go(network: nn.Module, output: str | None = "scores") -> None:
        settings = AttachSettings(output=output, feedback_epochs=2, batch_size=16)
        attach_network(
            tmp_path / "voxels.h5",
            tmp_path / "model.h5",
            network,
            settings,
            Origin(),
            device=CPU,
            force=True,
            listed=lambda overview: seen.append(overview.resumed_feedback),
            report=lambda progress: (
                losses.append(progress.loss) if progress.batch == 1 and not progress.record else None
            ),
        )

    losses: list[float] = []
    go(model)
    retrained = Residual()
    retrained.load_state_dict(model.state_dict())
    with torch.no_grad():
        retrained.fc.weight.mul_(1.1)
    go(retrained)
    go(trained(Plain(pooled=6), *data), None)
    assert seen == [False, True, False]
    assert losses[2] < 0.9 * losses[0]


class Pooled(nn.Module):
    """Its last vector is no module's output."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.last, self.fc = nn.Conv3d(1, 4, 4, 4), nn.Conv3d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.last(torch.relu(self.down(x)))).mean(dim=(2, 3, 4)))


def test_what_is_looked_over_says_what_the_default_levels_leave_out(
    data: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    save_volumes(tmp_path / "voxels.h5", data, classes=NAMES)
    torch.manual_seed(0)
    found = look_over(tmp_path / "voxels.h5", Pooled(), AttachSettings(batch_size=10**6), device=CPU)
    assert [level.name for level in found.spec.levels] == ["down"]
    assert (
        "last is the last activation that decides the logits, but no level by default: --levels down,last"
        in " ".join(warnings(found, "train"))
    )
    named = AttachSettings(levels=("down", "last"))
    assert look_over(tmp_path / "voxels.h5", Pooled(), named, device=CPU).above is None


def test_code_and_weights_are_no_output(data: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    save_volumes(tmp_path / "voxels.h5", data, classes=NAMES)
    for name in ("nets.py", "prep.py"):
        shutil.copy(NETS, tmp_path / name)
    torch.save(Plain(pooled=6).state_dict(), tmp_path / "best.pt")
    opened = open_classifier(
        f"{tmp_path / 'nets.py'}:Plain",
        kwargs='{"pooled": 6}',
        weights=tmp_path / "best.pt",
        transform=f"{tmp_path / 'prep.py'}:prepare",
        device=CPU,
    )
    for name in ("nets.py", "prep.py", "best.pt", "voxels.h5"):
        content = (tmp_path / name).read_bytes()
        with pytest.raises(UsageError, match=r"is a file that the run reads"):
            attach_network(
                tmp_path / "voxels.h5",
                tmp_path / name,
                opened.module,
                AttachSettings(),
                opened.origin,
                device=CPU,
                force=True,
            )
        assert (tmp_path / name).read_bytes() == content


def test_a_wrong_order_of_the_classes_is_noticed(
    model: nn.Module, data: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    turned = ["wave", "blob", "ridge"]  # labels count in this order, outputs in that of NAMES
    volumes, labels = data
    save_volumes(
        tmp_path / "v.h5", [(v, NAMES[label]) for v, label in zip(volumes, labels, strict=True)], classes=turned
    )
    settings = AttachSettings(output="scores", feedback_epochs=1)
    seen = []

    def go(chosen: AttachSettings) -> None:
        options = {"device": CPU, "force": True, "listed": seen.append}
        attach_network(tmp_path / "v.h5", tmp_path / "m.h5", model, chosen, Origin(), **options)

    go(settings)
    (warning,) = warnings(seen[0], "train")
    assert re.search(r"in another order for 8\d%|in another order for 9\d%", warning)
    assert warning.endswith("give --classes blob,ridge,wave")
    go(AttachSettings(output="scores", feedback_epochs=1, outputs=tuple(NAMES)))
    assert warnings(seen[1], "train") == []
    assert seen[1].fit.accuracy == seen[0].fit.better_accuracy > 0.8


def test_the_howtos_example_runs(
    model: nn.Module,
    data: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    first, second = re.findall(r"^```python\n(.*?)^```", HOWTO.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    volumes, labels = (torch.from_numpy(part) for part in data)

    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)["scores"]

    train = torch.utils.data.TensorDataset(volumes[:66], labels[:66])
    test = torch.utils.data.TensorDataset(volumes[66:], labels[66:])
    short = first.replace("say=print", "feedback_epochs=1, k=[4, 4, 4, 4][: len(levels)], levels=levels")
    names = {"model": Scores(), "train": train, "test": test, "levels": ["inner.stem", "inner.down", "inner.drop"]}
    exec(compile(short, str(HOWTO), "exec"), names)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("['test_")
    assert Path("why.html").is_file()
    exec(compile(second.replace("my-run", "other"), str(HOWTO), "exec"), {**names, "fer": fer_cli, "val": test})
    assert open_voxels(Path("other/voxels.h5")).splits.count("val") == 30


# Data sets


def test_data_sets_that_do_not_fit_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    one = np.zeros((4, 4, 4), np.float32)
    refusals = {
        r"train_00001 has 4×4×5 voxels, but the first volume 4×4×4": [
            (one, 0),
            (np.zeros((4, 4, 5)), 1),
        ],
        r"2 volumes, but 1 labels": (np.zeros((2, 4, 4, 4)), np.zeros(1)),
        r"the label -1 is no class": (np.zeros((2, 4, 4, 4)), np.array([-1, 0])),
        r"two samples are called 'a'": [(one, 0, "a"), (one, 1, "a")],
        r"the label 'bed' is no index; give classes": [(one, "bed")],
        r"not finite": [(one + np.nan, 0)],
        r"axes \(channel, x, y, z\)": [(np.zeros((2, 2)), 0)],
        r"a dict is no dataset|no volume": [({"a": 1}, 0)],
        r"the dataset is empty": [],
    }
    for said, given in refusals.items():
        with pytest.raises((InputError, UsageError), match=said):
            save_volumes(tmp_path / "v.h5", given)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="has the label 2, but there are 2 classes"):
        save_volumes(tmp_path / "v.h5", [(one, 2)], classes=["a", "b"])
    with pytest.raises(InputError, match="has the label 'c', which is none of the classes a, b"):
        save_volumes(tmp_path / "v.h5", [(one, "c")], classes=["a", "b"])
    with pytest.raises(InputError, match="holds other values than 0 and 1"):
        save_volumes(tmp_path / "v.h5", [(one, 0)] * 64 + [(one + 0.5, 1)])


def test_volumes_are_read_as_they_were_saved(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    grey_ones = generator.normal(size=(70, 2, 5, 4, 3)).astype(np.float32)
    labels = np.arange(70) % 2
    read = save_volumes(
        tmp_path / "grey.h5", (grey_ones[:50], labels[:50]), test=(grey_ones[50:], labels[50:]), spacing=(1, 2, 3)
    )
    assert read == InputSpec(2, (5, 4, 3), "intensity", (1.0, 2.0, 3.0))
    for in_memory in (False, True):
        found = open_voxels(tmp_path / "grey.h5", in_memory=in_memory)
        assert found.input == read
        np.testing.assert_array_equal(found.volumes([69, 3, 3]), grey_ones[[69, 3, 3]])
        assert found.indices("test").tolist() == list(range(50, 70))
        np.testing.assert_array_equal(found.index_to_world(0), np.diag([1, 2, 3, 1]))
    binary = (grey_ones[:, :1] > 0).astype(np.uint8)
    save_volumes(tmp_path / "binary.h5", (binary[:, 0], labels), classes=["a", "b"])
    found = open_voxels(tmp_path / "binary.h5")
    assert found.input.kind == "occupancy"
    np.testing.assert_array_equal(found.grids([4])[0], binary[4, 0])
    with pytest.raises(UsageError, match=r"binary\.h5 exists already"):
        save_volumes(tmp_path / "binary.h5", (binary[:, 0], labels))


# From the command line


@pytest.fixture(scope="module")
def shell(data: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network's code, its weights, volumes, and a configuration folder of its own."""
    folder = tmp_path_factory.mktemp("shell")
    shutil.copy(NETS, folder / "nets.py")
    torch.save(trained(Residual(), data[0][:66], data[1][:66], "scores").state_dict(), folder / "best.pt")
    volumes, labels = data
    save_volumes(folder / "run/voxels.h5", (volumes[:66], labels[:66]), test=(volumes[66:], labels[66:]), classes=NAMES)
    np.savetxt(folder / "case.txt", volumes[70].reshape(-1))
    return folder


ATTACH = "attach nets.py:Residual --weights best.pt --output scores --feedback-epochs 2 --transform nets.py:prepare"


def commands() -> Iterator[str]:
    yield f"{ATTACH} --dry-run"
    yield ATTACH
    yield "cluster --k 6,5,4,3"
    yield "calibrate --force"
    yield "info run/model.h5"
    yield "info run/voxels.h5"
    yield "probe test_00001 --layer down --location 0,0,1"
    yield "probe test_00001 --layer down --all-locations"
    yield "explain test_00000 --vtk"
    yield "explain case.txt --label ridge --no-images"
    yield "explain --errors --no-images"
    yield "evaluate --repair --planted --sanity --votes 2"
    yield "figures"
    yield "allow run/model.h5"


@pytest.mark.end_to_end
def test_every_command_works_on_an_attached_network(shell: Path, tmp_path: Path) -> None:
    wanted = list(commands())
    ended = forked(
        [[*command.split(), "--json"] for command in wanted],
        folder=shell,
        FER_RUN="run",
        XDG_CONFIG_HOME=str(shell / "config"),
    )
    assert [(command, done.stderr) for command, done in zip(wanted, ended, strict=True) if done.code] == []
    answers = {command: json.loads(done.stdout) for command, done in zip(wanted, ended, strict=True)}
    levels = [level["name"] for level in answers[f"{ATTACH} --dry-run"]["levels"]]
    assert [layer["name"] for layer in answers["explain test_00000 --vtk"]["layers"]] == [*levels, "output"]
    assert answers["explain case.txt --label ridge --no-images"]["sample"] == "case"
    evaluation = answers["evaluate --repair --planted --sanity --votes 2"]
    assert set(evaluation["reconstruction"][levels[0]]["shut"]) == {"psnr", "ssim", "mse"}
    assert "mc_dropout" in evaluation["detection"]
    assert answers["allow run/model.h5"]["allowed"][0]["name"] == "Residual"
    for command, wanted_keys in (
        ("attach", keys_of(answers[ATTACH], {})),
        ("allow", keys_of(answers["allow run/model.h5"], {})),
    ):
        assert_same(wanted_keys, keys_documented(DOCS / "cli.md", f"<!-- json: {command} -->"), command)
    _told_apart(shell, tmp_path)


def _told_apart(shell: Path, tmp_path: Path) -> None:
    """Code runs only where it was allowed, and only as it was; new weights in the file are noticed."""
    marker = shell / "ran"
    elsewhere = {"FER_RUN": "run", "XDG_CONFIG_HOME": str(tmp_path / "other")}
    own = {"FER_RUN": "run", "XDG_CONFIG_HOME": str(shell / "config")}
    again = ("explain", "test_00000", "--no-images")
    first = fer(*again, folder=shell, **elsewhere)
    assert first.code == 2
    assert "code that was not allowed on this machine" in first.stderr
    text = (shell / "nets.py").read_text()
    (shell / "nets.py").write_text(f"{text}\nopen({str(marker)!r}, 'w').close()\n")
    for number, words in enumerate((again, ("allow", "run/model.h5"), again)):
        done = fer(*words, folder=shell, **own)
        assert done.code == (2, 0, 0)[number], done.stderr
        assert marker.exists() == (number > 0)
        if not number:
            assert "is not the code that was allowed" in done.stderr
    torch.save(Residual().state_dict(), shell / "best.pt")
    done = fer(*again, folder=shell, **own)
    assert done.code == 0
    assert re.search(r"best\.pt has changed since .*model\.h5 was attached.*fer attach", done.stderr)


@pytest.mark.end_to_end
def test_what_does_not_fit_is_refused_in_one_line(shell: Path, tmp_path: Path) -> None:
    base = "attach nets.py:Residual --weights best.pt -o new.h5"
    refusals = (
        (f"{base}", 2, "a dict with 'scores', 'map'. Name the element with the classes: --output KEY"),
        (f"{base} --output scores --levels stem,pol", 2, "no activation 'pol' that can be a level. Near: pool"),
        (f"{base} --output scores --fit-on val", 2, r"no sample in the split 'val' \(splits: test, train\)"),
        (f'{base} --output scores --kwargs {{"classes":2}}', 2, r"2 keys of another shape \(fc.weight: \(3, 10\)"),
        (f"{base} --output scores --classes a,b,c", 2, "--classes names a, b, c; the samples' classes are blob"),
        ("attach nets.py:Residul -o new.h5", 2, "has no 'Residul'. Near: Residual"),
        ("attach best.pt -o new.h5", 2, "holds weights, not the network"),
        ("train --encoder best.pt -o new.h5", 4, "best.pt is no model.h5.*fer attach"),
        ("allow run/voxels.h5", 4, "is a fer-voxels"),
    )
    ended = forked(
        [command.split() for command, _, _ in refusals],
        folder=shell,
        FER_RUN="run",
        XDG_CONFIG_HOME=str(tmp_path / "config"),
    )
    for (command, code, said), done in zip(refusals, ended, strict=True):
        assert done.code == code, (command, done.stderr)
        assert re.search(said, done.stderr), (command, done.stderr)
        assert done.stderr.count("\n") == 1, done.stderr
    assert not (shell / "new.h5").exists()


PRINTING = """
import os
import torch
from torch import nn
print("imported")
os.system("echo of another process")
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.add_module("[red]\\x1b[2Jc", nn.Conv3d(1, 4, 4, 4))
        self.fc = nn.Linear(4, 3)
    def forward(self, x):
        print("a pass")
        return 10 * self.fc(torch.relu(next(self.children())(x)).mean(dim=(2, 3, 4)))
"""


@pytest.mark.end_to_end
def test_what_a_network_prints_or_is_called_spoils_no_answer(shell: Path, tmp_path: Path) -> None:
    (shell / "printing.py").write_text(PRINTING)
    command = ["attach", "printing.py:Net", "--dry-run"]
    answer, table = forked([[*command, "--json"], command], folder=shell, FER_RUN="run", XDG_CONFIG_HOME=str(tmp_path))
    assert json.loads(answer.stdout)["levels"][0]["name"] == "[red]\x1b[2Jc"
    assert {"imported", "of another process", "a pass"} <= set(answer.stderr.splitlines())
    assert "[red]" in table.stdout
    assert "\x1b" not in table.stdout + table.stderr


@pytest.mark.end_to_end
def test_an_interrupted_attachment_says_how_to_go_on(shell: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "fer_cli", *ATTACH.replace("epochs 2", "epochs 500").split(), "-o", "long.h5"]
    environment = {"FER_RUN": "run", "XDG_CONFIG_HOME": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        words, cwd=shell, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "validation loss" in line:
            process.send_signal(signal.SIGINT)
            break
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert re.search(r"validation PSNR -?\d", line), line  # of intensities
    assert "--resume" in said
    assert (shell / "long.checkpoint.h5").exists()
    assert not (shell / "long.h5").exists()


# A classifier that nobody here trained


@pytest.mark.real_data
def test_a_voxnet_of_somebody_else_has_its_accuracy_to_the_digit(shared_data: Path, tmp_path: Path) -> None:
    arrays = np.load(shared_data / "modelnet10-voxnet30.npz")
    module = load_benchmark("attach_voxnet").VoxNet()
    module.load_state_dict(torch.load(shared_data / "weights/voxnet30_state_dict.pt", weights_only=True))
    chosen = slice(0, None, 40)
    save_volumes(
        tmp_path / "voxels.h5",
        (arrays["X_train"][chosen], arrays["y_train"][chosen]),
        test=(arrays["X_test"], arrays["y_test"]),
        classes=[str(label) for label in range(10)],
    )
    opened = attach(module, tmp_path / "voxels.h5", run=tmp_path, feedback_epochs=1, cluster=False)
    indices = opened.voxels.indices("test")
    predicted = np.concatenate(
        [predict(opened.network, opened.voxels.tensor(part)) for part in batches(indices)]
    ).argmax(1)
    assert (predicted != opened.voxels.labels[indices]).sum() == len(opened.mistakes()) == 129
    assert [level.name for level in opened.network.spec.levels] == ["c1", "c2", "c3"]
    assert [why.partition(":")[0] for why in not_applicable(opened.network)] == ["mc_dropout", "vim"]
    x, other = opened.voxels.tensor(indices[:4]), opened.voxels.tensor(indices[4:8])
    backbone = opened.network.backbone
    for level, feature in backbone.features(x, ["c1", "c2", "c3"]).items():
        assert torch.equal(backbone.logits(x, patch={level: feature}), backbone.logits(x))
        assert torch.equal(backbone.logits(other, patch={level: feature}), backbone.logits(x))
