"""The documents hold to the code: artifacts, commands, JSON keys, terms and links."""

import importlib.util
import json
import re
import shutil
import tomllib
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diagnoses import diagnosis_of
from fer_cli.cli.doctor import Drawing, Examination, Extra, Library
from fer_cli.cli.machine import CPU_FLAGS, Cpu, Disk, Memory
from fer_cli.data.download import DownloadRecord
from fer_cli.diagnosis.cause import CAUSES, PoseFound, Signs
from fer_cli.network.training import TrainingSummary
from fer_cli.reports.explained import diagnosis_json
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.schema import FORMATS
from fer_cli.studies import causes
from fer_cli.studies.evaluate import write_evaluation

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
APP = ROOT / "src" / "fer_cli" / "cli" / "app.py"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
CLASSES = ("beam", "plate", "pole")


@cache
def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def section(page: Path, heading: str) -> str:
    """What stands between a heading of level two and the next."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", read(page), re.DOTALL | re.MULTILINE)
    assert found, f"{page.name} has no section '{heading}'"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Cells of the lines of all tables, heads left out; bars within code are no borders."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"\|(?=(?:[^`]*`[^`]*`)*[^`]*$)", line)[1:-1]] for line in lines]


def keys_documented(page: Path, marker: str) -> set[str]:
    found = re.search(rf"^{re.escape(marker)}\n((?:\n|\|.*\n)+)", read(page), re.MULTILINE)
    assert found, f"{page.name} has no table after '{marker}'"
    return {cells[0].strip("`") for cells in rows(found[1])}


def keys_of(value: object, names: dict[str, str]) -> set[str]:
    """Paths of all leaves of a JSON value; keys in `names` are replaced by what they are names of."""
    if isinstance(value, dict) and value:
        inner = {(names.get(key, key), path) for key, item in value.items() for path in keys_of(item, names)}
        return {f"{key}{'.' if path and not path.startswith('[') else ''}{path}" for key, path in inner}
    if isinstance(value, list):
        inner_paths = {path for item in value for path in keys_of(item, names)} or {""}
        return {f"[]{'.' if path and not path.startswith('[') else ''}{path}" for path in inner_paths}
    return {""}


def assert_same(found: set[str], documented: set[str], where: str) -> None:
    assert not found - documented, f"{where} does not name {sorted(found - documented)}"
    assert not documented - found, f"{where} names {sorted(documented - found)}, which do not exist"


# Artifacts


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_schema_page_is_what_the_schema_declares(form):
    text = section(DOCS / "schema.md", form.name)
    documented = {cells[0].strip("`"): (cells[1], cells[2]) for cells in rows(text)}
    declared = {
        spec.name: (", ".join(spec.axes) if spec.axes is not None else "any", spec.dtype) for spec in form.datasets
    }
    assert_same(set(declared), set(documented), f"docs/schema.md, {form.name},")
    for name, described in declared.items():
        assert documented[name] == described, f"docs/schema.md has {documented[name]} for {name}, not {described}"
    assert f"`{form.command}`, version {form.version}." in text
    assert f"Parents: {', '.join(f'`{role}`' for role in form.parents) or 'none'}." in text


def test_schema_page_has_a_section_for_no_other_format():
    assert set(re.findall(r"^## (fer-.*)$", read(DOCS / "schema.md"), re.MULTILINE)) == set(FORMATS)


# Commands


@cache
def load_file(path):
    """A module by its file, outside any package."""
    spec = importlib.util.spec_from_file_location(f"{path.stem}_by_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_cli():
    return load_file(DOCS / "make_cli.py")


def test_option_tables_are_those_of_the_commands():
    page = read(DOCS / "cli.md")
    assert make_cli().with_tables(page) == page, "docs/cli.md is out of date: run .venv/bin/python docs/make_cli.py"


def test_every_command_has_a_section_an_option_table_help_and_an_example():
    commands = make_cli().commands()
    assert set(re.findall(r"<!-- options: (\w+) -->", read(DOCS / "cli.md"))) == set(commands)
    for name, command in commands.items():
        assert command.help, name
        if name == "fer":
            continue
        assert f"<!-- options: {name} -->" in section(DOCS / "cli.md", name)
        assert command.epilog.startswith(f"Example: fer {name} "), f"fer {name} shows no example of itself"


def test_commands_shown_in_the_documents_exist():
    commands = make_cli().commands()
    shown = 0
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", read(page), re.DOTALL | re.MULTILINE):
            for line in re.findall(r"^fer (.*)$", block, re.MULTILINE):
                name, *words = line.partition("#")[0].split()
                if name.startswith("["):
                    continue
                if name.startswith("-"):  # an option of the program itself
                    name, words = "fer", [name, *words]
                assert name in commands, f"{page.name} shows 'fer {name}', which does not exist"
                known = {option for parameter in commands[name].params for option in make_cli().shown_names(parameter)}
                unknown = {word for word in words if word.startswith("-")} - known - {"--help"}
                assert not unknown, f"{page.name} shows fer {name} with {unknown}, which do not exist"
                shown += 1
    assert shown > 10


# JSON


@pytest.fixture(scope="module")
def run_folder(run_paths):
    """Folder of the tiny run."""
    return run_paths.voxels.parent


@pytest.fixture(scope="module")
def evaluation(run_folder, tmp_path_factory):
    wanted = ("--sanity", "--repair", "--planted", "--causes", "--views", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(causes, "MOST", 1)
        return answer("evaluate", run_folder, *wanted, "-o", tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(scope="module")
def voxelized(box_source, tmp_path_factory):
    """What voxelize says of a source with a sound box, the same again, a flat one, one that is none, and odd points."""
    folder = tmp_path_factory.mktemp("voxelize")
    target = folder / "beam" / "train"
    target.mkdir(parents=True)
    for name in ("same", "sound"):
        shutil.copy(next(box_source.rglob("*.off")), target / f"{name}.off")
    (target / "flat.off").write_text("OFF\n3 1 0\n0 0 0\n4 0 0\n0 4 0\n3 0 1 2\n")
    (target / "broken.off").write_text("OFF")
    (target / "holed.xyz").write_text("0 0 0\n1 2 3\nnan nan nan\n")
    return answer("voxelize", folder, "-o", folder / "voxels.h5", "--resolution", "8", "--drop-duplicates")


def answer(*words):
    # By its file, since beartype, which the import hook brings, objects to how typer calls what it decorates.
    app = load_file(APP).app
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.exception is None, result.exception
    return json.loads(result.stdout)


def fails(*words):
    """Exit code and JSON of a command of which a part fails."""
    result = CliRunner().invoke(load_file(APP).app, [*map(str, words), "--json"])
    return result.exit_code, json.loads(result.stdout)


KNOWN_NAMES = {**dict.fromkeys(CLASSES, "<class>"), **dict.fromkeys(("train", "test", "unlabelled"), "<split>")}


def assert_keys_are_documented(command, found):
    assert_same(
        found, keys_documented(DOCS / "cli.md", f"<!-- json: {command} -->"), f"docs/cli.md, JSON of {command},"
    )


def test_keys_of_download_are_documented():
    # `fer download --json` prints the record of the file and these two.
    assert_keys_are_documented("download", {"output", "fetched"} | {field.name for field in fields(DownloadRecord)})


def test_keys_of_voxelize_are_documented(voxelized):
    assert_keys_are_documented("voxelize", keys_of(voxelized, KNOWN_NAMES))


def test_keys_of_train_are_documented():
    # `fer train --json` prints the fields of its summary, the score in another form, and these.
    found = {field.name for field in fields(TrainingSummary)} - {"score_name", "score", "unreduced_layers"}
    shown = {"curve", "voxel_iou", "score.name", "score.value", "unreduced_layers[]"}
    assert_keys_are_documented("train", found | shown)


@pytest.fixture(scope="module")
def chosen(run_folder, tmp_path_factory):
    """What cluster says where it chooses the numbers of codes."""
    path = tmp_path_factory.mktemp("chosen") / "codebook.h5"
    return answer("cluster", "--run", run_folder, "--k", "auto", "--workers", "1", "-o", path)


def test_keys_of_cluster_are_documented(run_folder, chosen, tmp_path):
    given = answer("cluster", "--run", run_folder, "--k", "2,2,2,2", "--workers", "1", "-o", tmp_path / "codebook.h5")
    assert_keys_are_documented("cluster", keys_of(given, KNOWN_NAMES) | keys_of(chosen, KNOWN_NAMES))


def test_keys_of_calibrate_are_documented(run_folder, tmp_path):
    for name in ("voxels.h5", "model.h5", "codebook.h5"):
        shutil.copy(run_folder / name, tmp_path)
    assert_keys_are_documented("calibrate", keys_of(answer("calibrate", "--run", tmp_path), KNOWN_NAMES))


def test_keys_of_probe_are_documented(run_folder, tmp_path):
    probed = answer("probe", "beam_test_00", "--layer", "conv1", "--nifti", "--run", run_folder, "-o", tmp_path)
    swept = answer("probe", "beam_test_00", "--layer", "conv3", "--all-locations", "--run", run_folder, "-o", tmp_path)
    assert_keys_are_documented("probe", keys_of(probed, KNOWN_NAMES) | keys_of(swept, KNOWN_NAMES))


def test_keys_of_explain_are_documented(run_folder, evaluation, tmp_path):
    mistake = evaluation["misclassified"][0]["sample"]
    wanted = ("--no-images", "--vtk", "--nifti", "-o", tmp_path)
    said = answer("explain", mistake, *wanted, "--run", run_folder)
    signs = Signs(
        "table", "chair", {}, 0.3, pose=PoseFound("90° about x", "chair", 0.93, is_usual=True, is_nearer=True)
    )
    said["pose"] = diagnosis_json(diagnosis_of(signs=signs), report=None)["pose"]  # which not every mistake has
    assert_keys_are_documented("explain", keys_of(said, KNOWN_NAMES))


def test_keys_of_explain_of_several_are_documented(run_folder):
    code, said = fails("explain", "beam_test_02", "nosuch", "--no-images", "--run", run_folder)
    assert code == 3
    assert_keys_are_documented("explain, several", keys_of({**said, "samples": [None]}, KNOWN_NAMES))


def test_keys_and_scores_of_evaluate_are_documented(evaluation):
    scores = evaluation["detection"]
    metrics = dict.fromkeys(evaluation["comparisons"][0].keys() - {"ours", "theirs", "why"}, "<metric>")
    layers = dict.fromkeys(evaluation["reconstruction"], "<layer>")
    # Some scores and layers have the names of other keys, so only here are they taken for what they are.
    apart = {
        "detection": dict.fromkeys(scores, "<score>"),
        "curves": dict.fromkeys(scores, "<score>"),
        "reconstruction": layers,
        "comparisons": metrics,
        "false_alarms": dict.fromkeys(evaluation["false_alarms"], "<score>") | KNOWN_NAMES,
        "added_to_softmax": metrics,
        "sanity": layers | dict.fromkeys(evaluation["sanity"][0]["checks"], "<network>"),
    }
    for row in evaluation["repair"]["layers"].values():
        apart |= {"repair": layers | dict.fromkeys(row["donors"]["label"], "<ranking>")}
        assert list(row["donors"]) == ["label", "evidence"]
        row["donors"] = {"<donor>": row["donors"]["label"]}
        for what, name in (("wrong_class_repairs", "<ranking>"), ("correct_broken", "<donor>")):
            row["specificity"][what] = {name: next(iter(row["specificity"][what].values()))}
    assert evaluation["planted"].pop("grafts") == {}  # boxes have no part to graft
    by_dose = evaluation["planted"].pop("weights_by_dose")
    at_fault = {layer: {"<kind>": next(iter(each.values()))} for layer, each in evaluation["planted"].items()}
    at_fault["grafts"] = {"<kind>": {"<graft>": {"tried": 1, "turned": 1}}}
    evaluation["planted"] = at_fault | {"weights_by_dose": by_dose}
    rankings = {name for each in at_fault["location"].values() for row in each.values() for name in row["rankings"]}
    apart |= {"planted": layers | {"all": "<layer>"} | dict.fromkeys(rankings, "<ranking>")}
    cases = {name for of in evaluation["causes"].values() for name in of}
    apart |= {
        "causes": dict.fromkeys(evaluation["causes"], "<planted>"),
        "cause_scores": dict.fromkeys(evaluation["causes"], "<planted>")
        | dict.fromkeys(("ours", "neighbours", "majority"), "<way>"),
    }
    assert cases <= set(CAUSES)
    evaluation["causes"] = {next(iter(evaluation["causes"])): {"<named>": 1}}
    found = {
        "votes",
        "sanity",
        "repair",
        "planted",
        "groups",
        "causes",
        "cause_scores",
        "shares.<group>",
        "without_duplicates.<figures>",
    }
    for key, names in apart.items():
        found |= keys_of({key: evaluation[key]}, names)
    accuracy = {key: evaluation[key] for key in ("n", "n_errors", "accuracy", "class_accuracy")}
    found |= {f"votes.{key}" for key in ("views", *accuracy)}
    experts = dict.fromkeys(evaluation["runs"][0]["weights"], "<alarm>")
    found |= keys_of({"runs": evaluation["runs"]}, experts) | keys_of({"without_duplicates": accuracy}, {})
    rest = {key: value for key, value in evaluation.items() if key not in {*apart, "runs", "without_duplicates"}}
    shares = dict.fromkeys(rest.pop("shares"))
    assert list(shares) == ["correct", "misclassified"]
    assert set(evaluation["without_duplicates"]) == {
        *accuracy, "detection", "comparisons", "added_to_softmax", "undefined"
    }  # fmt: skip
    # Of so few mistakes there are no intervals.
    found = {re.sub(r"(?<=[._])(ci|blame_interval)$", r"\1[]", key) for key in found}
    assert_keys_are_documented("evaluate", found | keys_of(rest, KNOWN_NAMES))
    described = section(DOCS / "cli.md", "evaluate")
    for score in scores:
        general = re.sub(r"_(conv\d|fc\d)$", "_<layer>", score)
        assert f"`{general}`" in described, f"docs/cli.md does not name the score {general}"


def test_keys_of_compare_are_documented(run_folder, other_run_paths, tmp_path):
    other = other_run_paths.voxels.parent
    found = answer("compare", run_folder, other, "-o", tmp_path)
    assert found["n"] == 18
    keys = keys_of({**found, "causes": {}}, {})
    causes = {f"causes.{kind}.{name}" for kind, named in found["causes"].items() for name in named}
    assert causes
    changed = {
        f"{kind}[].{key}"
        for kind in ("mended", "broken", "otherwise")
        for key in ("sample", "label", "before", "after", "cause", "remedy")
    }
    assert_keys_are_documented(
        "compare",
        {key for key in keys if not key.startswith(("causes", "otherwise"))} | changed | {"causes.<kind>.<cause>"},
    )


def test_keys_of_figures_are_documented(run_folder, tmp_path):
    drawn = answer("figures", "--run", run_folder, "-o", tmp_path)
    drawn["table1"] = drawn["errors_norm"] = None
    names = dict.fromkeys(drawn["figures"], "<figure>") | dict.fromkeys(drawn["shares"], "<group>")
    assert_keys_are_documented("figures", keys_of(drawn, names))
    rule = " ".join(drawn["rule"].split()).lower()
    assert rule in " ".join(section(DOCS / "cli.md", "figures").split()).lower(), "docs/cli.md tells another rule"


def test_keys_of_info_are_documented(run_folder, voxelized, chosen):
    found = {"content.parameters.weights"}  # of a checkpoint, which is read as a model is
    calibrated = run_folder / "codebook.calibration.h5"
    for path in (voxelized["output"], run_folder / "model.h5", run_folder / "codebook.h5", chosen["path"], calibrated):
        told = answer("info", path)
        told["parents"] = told["config"] = None
        found |= keys_of(told, KNOWN_NAMES)
    assert_keys_are_documented("info", found)


def test_keys_of_info_of_a_run_are_documented(run_folder, evaluation, tmp_path):
    for path in run_folder.glob("*.h5"):
        shutil.copy(path, tmp_path)
    write_evaluation(evaluation, tmp_path / "evaluate")
    layers = dict.fromkeys(answer("info", tmp_path)["codebook"]["k"], "<layer>")
    found = keys_of({**answer("info", tmp_path), "problems": [""]}, KNOWN_NAMES | layers)
    assert_keys_are_documented("info, run", found)


def test_keys_of_doctor_are_documented():
    machine = Cpu("a CPU", 2, 2, dict.fromkeys(CPU_FLAGS, True), None)
    library, extra = Library("h5py", ">=3.12", None, "is not installed"), Extra("distributed", ("distributed",), "pip")
    disk, drawing, memory = Disk("the run", "fer-run", None, "full"), Drawing(None, None, "no EGL"), Memory(1, 1, None)
    said = Examination(
        "0", "3", "Linux", machine, memory, ("a GPU",), (library,), (extra,), drawing, (disk,), ("bad",), ("odd",)
    )
    assert_keys_are_documented("doctor", keys_of(json.loads(json.dumps(asdict(said))), KNOWN_NAMES))


@pytest.mark.parametrize(
    ("file", "marker"),
    [
        ("voxels.h5", "`config` of **fer-voxels**\n"),
        ("model.h5", "`config` of **fer-model** and **fer-checkpoint**\n"),
        ("codebook.h5", "`config` of **fer-codebook**\n"),
    ],
)
def test_configuration_is_documented(run_folder, file, marker):
    with open_artifact(run_folder / file) as artifact:
        config = artifact.config
    layers = dict.fromkeys(config.get("k", {}), "<layer>")
    turned = {"voxelization.up"} & keys_documented(DOCS / "schema.md", marker)  # recorded where shapes were turned
    assert_same(
        keys_of(config, layers) | turned,
        keys_documented(DOCS / "schema.md", marker),
        f"docs/schema.md, config of {file},",
    )


# Terms, links, README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page):
    prose = re.sub(r"^```.*?^```", "", read(page), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name} links to {link}, which does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", read(target), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{page.name} links to {link}, but {target.name} has no such heading"


def test_readme_names_make_demo_and_make_test_before_any_other_command():
    blocks = re.findall(r"^```\w*\n(.*?)^```", read(ROOT / "README.md"), re.DOTALL | re.MULTILINE)
    commands = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]
    assert commands[:2] == ["make demo", "make test"]
    assert read(ROOT / "README.md").index("make demo") < read(ROOT / "README.md").index("\n## ")


def test_targets_that_the_readme_names_are_in_the_makefile():
    targets = re.findall(r"^(\w+):", read(ROOT / "Makefile"), re.MULTILINE)
    assert set(re.findall(r"make (\w+)", "\n".join(re.findall(r"`[^`]+`", read(ROOT / "README.md"))))) <= set(targets)


# Architecture


def test_rooms_of_the_architecture_page_are_the_packages_in_the_order_of_the_contract():
    project = tomllib.loads(read(ROOT / "pyproject.toml"))
    contract = next(c for c in project["tool"]["importlinter"]["contracts"] if c["containers"] == ["fer_cli"])
    layers = [name for layer in contract["layers"] for name in layer.split(" | ")]
    rooms = [cells[0].strip("`") for cells in rows(section(DOCS / "architecture.md", "Rooms"))]
    assert rooms == layers
    package = [path for path in APP.parents[1].iterdir() if path.is_dir() or path.suffix == ".py"]
    there = {path.stem for path in package if not path.name.startswith("__")}
    assert set(rooms) == there


def test_files_that_the_architecture_page_names_exist():
    page = read(DOCS / "architecture.md")
    for name in re.findall(r"`([a-z_/]+\.(?:py|h5|j2|md|html\.j2))`", page):
        if not name.endswith(".h5"):
            found = [*ROOT.glob(name), *APP.parents[1].rglob(name)]
            assert found, name
