"""`fer info voxels.h5 --sheet`: a page with pictures of some samples of each class and split; it makes no request."""

from collections.abc import Callable
from pathlib import Path

from fer_cli.data.dataset import open_voxels
from fer_cli.pictures.contact_sheet import Group, draw_groups
from fer_cli.reports.page import POLICY, environment
from fer_cli.storage.disk import write_whole


def sheet_path(voxels: Path) -> Path:
    """Where the page of a voxels.h5 lies unless it is named: beside it."""
    return voxels.with_name(f"{voxels.stem}.sheet.html")


def write_contact_page(voxels: Path, page: Path, *, progress: Callable[[int, int], None]) -> Path:
    """Write the page of a voxels.h5. Raises ArtifactError if it is none, ResourceError where it cannot be written."""
    voxel_set = open_voxels(voxels)
    groups = draw_groups(voxel_set, progress=progress)
    settings = voxel_set.voxelization
    text = (
        environment()
        .get_template("contact.html.j2")
        .render(
            title=f"{len(voxel_set)} samples of {voxels.name}",
            groups=groups,
            classes=_by_class(groups),
            shapes=voxel_set.input.kind == "occupancy",
            up=settings.get("up", "z") if settings else None,
            channels=voxel_set.input.channels,
            policy=POLICY,
        )
    )
    write_whole(page, text)
    return page


def _by_class(groups: list[Group]) -> dict[str, list[Group]]:
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault("without a class" if group.klass is None else group.klass, []).append(group)
    return found
