"""Several samples explained with one loaded model: their reports, and the gallery that leads to them.

What writes pages is imported where a page is wanted.

Source: what Figs 5 and 7 do for a few hand-picked failures, for all of them.
"""

import json
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import MappingProxyType

from fer_cli.arguments import file_name
from fer_cli.artifacts import RunArtifacts
from fer_cli.data.formats.nifti import nibabel
from fer_cli.data.sample_input import Sample
from fer_cli.data.turning import Axis
from fer_cli.diagnosis.diagnosis import Diagnosis
from fer_cli.diagnosis.explain import explain
from fer_cli.errors import FerError, InputError, UsageError
from fer_cli.pictures.drawing import Drawing
from fer_cli.reports.explained import PAGE, Explained, diagnosis_json, is_page
from fer_cli.storage.disk import make_folder, write_whole

SUMMARY = "diagnosis.json"
_AHEAD = 4
"""So many diagnoses may wait for their pictures; each holds a few megabytes."""


@dataclass(frozen=True)
class Wanted:
    """What is wanted of each sample: its true class if given, and reports (where there is a `drawing`) and volumes.

    `volumes` are for ParaView, `nifti` for medical viewers, `summary` is `diagnosis.json` where there are no reports;
    another prediction is a mean over `views`. `up` is the axis of files that points up, by default that of the run. The
    reports of several samples share scripts and link their pictures, unless each is to be a `single_file`; they link to
    the evaluation of the `split` where there is one.
    """

    label: str | None
    local_layer: str | None
    drawing: Drawing | None
    volumes: bool
    nifti: bool = False
    views: int | None = None
    single_file: bool = False
    split: str = "test"
    summary: bool = False
    up: Axis | None = None

    @property
    def files(self) -> bool:
        """Whether anything is written."""
        return self.drawing is not None or self.volumes or self.nifti or self.summary


@dataclass(frozen=True)
class Failed:
    """A sample that could not be explained, and why."""

    sample: str
    error: FerError


@dataclass(frozen=True)
class Several:
    """The samples that were explained, those that could not be, and the gallery's page if one was wanted."""

    explained: list[Explained]
    failed: list[Failed]
    gallery: Path | None

    @property
    def json(self) -> dict[str, object]:
        """What `fer explain --json` prints of several samples."""
        return {
            "samples": [each.json for each in self.explained],
            "failed": [{"sample": each.sample, "error": str(each.error)} for each in self.failed],
            "gallery": str(self.gallery) if self.gallery else None,
        }


def explain_one(
    run: RunArtifacts, name: str, target: Path | None, wanted: Wanted, *, parent: Path
) -> tuple[Explained, Diagnosis]:
    """Explain one sample and write its report to `target`, or into a folder named after it in `parent`.

    A folder that holds the report of another file is left as it is; the name is then numbered. A `target` that ends in
    .html is the page alone, any other a folder. Raises what opening the run, reading the sample and writing raise;
    whether the target can be written is seen first. Raises UsageError for volumes beside a page, and for a folder that
    is named as a page is.
    """
    alone = target is not None and is_page(target)
    if alone and (wanted.volumes or wanted.nifti):
        written = "--vtk writes shapes.vti" if wanted.volumes else "--nifti writes files"
        raise UsageError(f"{written} beside the page: name a folder, not {target}.")
    if alone and wanted.drawing is None and wanted.files:
        raise UsageError(f"--no-images writes diagnosis.json and no page: name a folder, not {target}.")
    _check(run, wanted)
    sample = run.sample(name, label=wanted.label, up=wanted.up)
    if alone and target is not None and target.is_dir():
        raise UsageError(f"{target} is a folder, but a name that ends in .html is for a page. Name another.")
    place = target or own_folder(parent, sample, ())
    if wanted.files:
        make_folder(place.parent if alone else place)
    if wanted.drawing and run.network.spec.input.kind == "occupancy":  # slices need no window
        wanted.drawing.get_ready()
    diagnosis = explain(run, sample, local_layer=wanted.local_layer, views=wanted.views)
    parts = wanted.drawing.processes if wanted.drawing else 1
    page = place if alone else place / PAGE
    return _begin(run, diagnosis, sample, place, page, wanted, parts=parts)(), diagnosis


def explain_several(
    run: RunArtifacts,
    names: Sequence[str],
    folder: Path,
    wanted: Wanted,
    *,
    what: str,
    complain: Callable[[str], None],
    progress: Callable[[int, int | None], None],
    called: Mapping[str, str] = MappingProxyType({}),
) -> Several:
    """Explain samples one after the other, each into a folder of its own in `folder`, and write their gallery there.

    `called` gives files other names than their stems. `what` they are is the gallery's title. Pictures are drawn and
    written while the next sample is read. A sample that does not exist or cannot be used is complained of and left out;
    errors that would meet every sample are raised.

    Raises UsageError where `folder` is named as a page is.
    """
    if wanted.files and is_page(folder):
        raise UsageError(f"several samples are written to a folder; {folder} names a page.")
    explained: list[Explained] = []
    failed: list[Failed] = []
    pending: deque[Callable[[], Explained]] = deque()

    def settle(most: int) -> None:
        while len(pending) > most:
            explained.append(pending.popleft()())
            progress(len(explained) + len(failed), len(names))

    _check(run, wanted)
    progress(0, len(names))
    if wanted.files:
        make_folder(folder)
    assets = None
    if wanted.drawing is not None and not wanted.single_file:
        from fer_cli.reports.site import write_assets

        assets = write_assets(folder, run.network.spec.input.kind)
    taken: list[Path] = []
    for name in names:
        try:
            sample = run.sample(name, label=wanted.label, up=wanted.up)
        except InputError as error:
            complain(str(error))
            failed.append(Failed(name, error))
            continue
        sample = replace(sample, name=called.get(name, sample.name))
        own = own_folder(folder, sample, taken)
        taken.append(own)
        if wanted.files:
            make_folder(own)
        diagnosis = explain(run, sample, local_layer=wanted.local_layer, views=wanted.views)
        pending.append(_begin(run, diagnosis, sample, own, own / PAGE, wanted, assets=assets))
        settle(_AHEAD)
    settle(0)
    gallery = None
    if wanted.drawing is not None:
        from fer_cli.reports.gallery_page import write_gallery
        from fer_cli.reports.site import evaluation_page

        evaluation = evaluation_page(run.paths.model.parent, wanted.split)
        gallery = write_gallery(
            explained,
            run.network.spec.layer_names,
            folder,
            f"{len(explained)} {what}",
            single_file=wanted.single_file,
            evaluation=evaluation,
        )
    return Several(explained, failed, gallery)


def _check(run: RunArtifacts, wanted: Wanted) -> None:
    """Raise what would meet every sample, before anything is begun: what does not fit, or is not installed."""
    if wanted.nifti:
        nibabel()
    if wanted.local_layer is not None:
        run.network.spec.index(wanted.local_layer)
    _ = run.codebook


def _begin(
    run: RunArtifacts,
    diagnosis: Diagnosis,
    sample: Sample,
    target: Path,
    page: Path,
    wanted: Wanted,
    *,
    assets: Path | None = None,
    parts: int = 1,
) -> Callable[[], Explained]:
    """Begin to write a report, only a page if that is the target; returns a function that waits for the files."""
    write = None
    if wanted.drawing is not None:
        from fer_cli.reports.page import begin_report
        from fer_cli.reports.site import site_of

        site = site_of(page, run=run.paths.model.parent, split=wanted.split, model=run.model.id, assets=assets)
        write = begin_report(diagnosis, target, wanted.drawing, alone=page == target, parts=parts, site=site)

    def finish() -> Explained:
        files = {}
        if write:
            files["report"] = write()
        answer = diagnosis_json(diagnosis, report=str(files["report"]) if write else None)
        if wanted.summary and not write:
            files["diagnosis"] = target / SUMMARY
            write_whole(files["diagnosis"], json.dumps(answer, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
        if wanted.volumes:
            from fer_cli.pictures.volumes import write_volumes

            files["volumes"] = write_volumes(diagnosis, sample.index_to_world, target)
            answer["volumes"] = str(files["volumes"])
        if wanted.nifti:
            from fer_cli.reports.nifti import write_nifti

            maps = write_nifti(diagnosis, target)
            files["nifti"] = maps[0].parent
            answer["nifti"] = [str(path) for path in maps]
        return Explained(answer, diagnosis.answer, diagnosis.suspicion, files, diagnosis.places)

    return finish


def own_folder(parent: Path, sample: Sample, taken: Collection[Path]) -> Path:
    """The folder in `parent` for a sample's report, named after it; numbered past those `taken`, or of other files."""
    name = file_name(sample.name)
    for number in count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        if folder not in taken and _is_free(folder / SUMMARY, sample.source):
            return folder
    raise AssertionError("unreachable")


def _is_free(summary: Path, source: Path | None) -> bool:
    """Whether no diagnosis of another file lies there. Older ones, which tell no source, are replaced."""
    try:
        known = json.loads(summary.read_bytes())["source"]
    except (OSError, ValueError, KeyError, TypeError):
        return True
    return bool(known == (None if source is None else str(source)))
