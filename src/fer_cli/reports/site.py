"""What joins the pages of a run: links from the evaluation to the gallery and the reports, and back.

The reports of several samples share style and scripts in the folder `assets` of their gallery. The pages of a run
are joined by relative links, so that its folder can be copied or served as a whole.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zlib import crc32

from fer_cli.arguments import file_name
from fer_cli.errors import ResourceError
from fer_cli.evaluation.results import Evaluation
from fer_cli.reports.page import Site, environment, shared_assets
from fer_cli.storage.disk import make_folder, write_whole
from fer_cli.studies.trust import FAILS

ASSETS = "assets"
"""The folder of what the reports of a gallery share, in the gallery's folder."""
PICTURES = "pictures"
"""The folder of an evaluation's pictures, in the evaluation's folder."""
PLACEHOLDER = "<!-- site -->"
"""Where a report's links to its neighbours go, once its neighbours are known."""


def link(target: Path, page: Path) -> str:
    """A link from `page` to the file `target`."""
    return quote(Path(os.path.relpath(target, page.parent)).as_posix())


def evaluation_page(run: Path, split: str) -> Path | None:
    """The page that `fer evaluate` wrote in the folder of a run, if it did."""
    page = run / "evaluate" / f"{split}.html"
    return page if page.is_file() else None


def read_evaluation(page: Path, model: str) -> Evaluation | None:
    """The results beside the page of an evaluation; None where they cannot be read or are of another model."""
    try:
        found: Evaluation = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
        same = [run["model"] for run in found["runs"]] == [model]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if same else None


def site_of(report: Path, *, run: Path, split: str, model: str, assets: Path | None) -> Site:
    """What a page at `report` links to: the shared `assets`, and the evaluation of the run with what it doubts."""
    shared = None if assets is None else link(assets, report)
    page = evaluation_page(run, split)
    evaluation = None if page is None else read_evaluation(page, model)
    if page is None or evaluation is None:
        return Site(shared)
    return Site(shared, link(page, report), doubts(evaluation))


def doubts(evaluation: Evaluation) -> dict[str, str | None]:
    """What follows from the questions of the trust card that failed, and the class it is about, None for all."""
    failed = [row for row in evaluation.get("trust", []) if row.get("verdict") == FAILS and row.get("follows")]
    return {row["follows"]: row.get("of_class") for row in failed}


def write_assets(folder: Path, kind: str) -> Path:
    """Write what reports on a kind of volume share into a gallery's folder, and answer where.

    Raises ResourceError where it cannot be written.
    """
    assets = folder / ASSETS
    make_folder(assets)
    for name, content in shared_assets(kind).items():
        write_whole(assets / name, content)
    return assets


def link_reports(pages: Iterable[tuple[str, Path]], gallery: Path, evaluation: Path | None) -> None:
    """Fill in, in the order of the gallery, the links of every report to the pages around it.

    `pages` are the names of the samples and the pages of their reports. Raises ResourceError where one cannot be
    written.
    """
    ordered = list(pages)
    template = environment().get_template("navigation.html.j2")
    for place, (_, page) in enumerate(ordered):
        before, after = ordered[:place][-1:], ordered[place + 1 : place + 2]
        filled = template.render(
            previous=next(((name, link(other, page)) for name, other in before), None),
            next=next(((name, link(other, page)) for name, other in after), None),
            gallery=link(gallery, page),
            evaluation=None if evaluation is None else link(evaluation, page),
            place=place + 1,
            number=len(ordered),
        )
        try:
            text = page.read_text(encoding="utf-8")
        except OSError as error:
            raise ResourceError(f"{page} cannot be read ({error.strerror}).") from error
        write_whole(page, text.replace(PLACEHOLDER, filled, 1))


@dataclass(frozen=True)
class Joined:
    """What the page of an evaluation links to: reports and pictures by sample, and the gallery if there is one."""

    reports: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)
    gallery: str | None = None

    def filtered(self, group: Mapping[str, Any]) -> str:
        """A link to the gallery that shows the mistakes of a group alone."""
        chosen = "&".join(f"sample={quote(name, safe='')}" for name in group["samples"])
        return f"{self.gallery}#{chosen}"


def joined(evaluation: Evaluation, page: Path, run: Path) -> Joined:
    """What there is beside the page of an evaluation, and in the folder of its run."""
    groups = evaluation["groups"] or []
    names = dict.fromkeys(name for group in groups for name in (*group["samples"], *group["counterexamples"]))
    reports = {name: run / "explain" / file_name(name) / "index.html" for name in names}
    pictures = {name: picture_path(page.parent, name) for name in names}
    gallery = run / "explain" / "index.html"
    return Joined(
        reports={name: link(path, page) for name, path in reports.items() if path.is_file()},
        pictures={name: link(path, page) for name, path in pictures.items() if path.is_file()},
        gallery=link(gallery, page) if gallery.is_file() else None,
    )


def picture_path(folder: Path, name: str) -> Path:
    """Where the picture of a sample lies in the folder of an evaluation; names that differ have others."""
    plain = file_name(name)
    return folder / PICTURES / (f"{plain}.png" if plain == name else f"{plain}-{crc32(name.encode()):08x}.png")
