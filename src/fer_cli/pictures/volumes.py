"""A diagnosis's shapes as one VTK image for ParaView: a cell a voxel, an array a shape, in units of the input's file.

Source: the panels of Figs 3 to 7.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from fer_cli.diagnosis.blame import weigh_voxels
from fer_cli.diagnosis.diagnosis import Diagnosis
from fer_cli.network.activations import PATHS
from fer_cli.pictures.scene import Grid
from fer_cli.storage.disk import write_whole


def write_volumes(diagnosis: Diagnosis, index_to_world: Float[np.ndarray, "4 4"], folder: Path) -> Path:
    """Write `shapes.vti` into `folder`, made if need be; its path.

    Cell arrays hold voxel values, one array a channel, numbered where there are several: `input`, `local`, `nearest`,
    `class_code`, and for each layer and path its representative; `blamed` counts the `places` of
    the diagnosis that see a voxel.
    `index_to_world` maps voxel centres to the world.

    Raises ResourceError where the file cannot be written.
    """
    import pyvista
    from vtkmodules.vtkIOXML import vtkXMLImageDataWriter

    path = folder / "shapes.vti"
    shape = diagnosis.input_volume.shape[1:]
    spacing = np.linalg.norm(index_to_world[:3, :3], axis=0)
    direction = index_to_world[:3, :3] / spacing
    image = pyvista.ImageData(
        dimensions=tuple(side + 1 for side in shape),  # points, of which cells have one more along each axis
        spacing=tuple(spacing),
        origin=tuple(index_to_world[:3] @ (-0.5, -0.5, -0.5, 1.0)),
        direction_matrix=direction,
    )
    for name, grid in _arrays(diagnosis).items():
        # VTK varies x fastest; numpy varies z fastest.
        image.cell_data[name] = grid.ravel(order="F")
    writer = vtkXMLImageDataWriter()
    writer.SetInputData(image)
    writer.SetDataModeToBinary()
    writer.WriteToOutputStringOn()  # of a file that it cannot write it tells no reason
    writer.Write()
    write_whole(path, writer.GetOutputString())
    return path


def _arrays(diagnosis: Diagnosis) -> dict[str, Grid]:
    arrays = {
        "input": diagnosis.input_volume,
        "local": diagnosis.local_volume,
        "nearest": diagnosis.nearest_volume,
        "class_code": diagnosis.class_code_volume,
    }
    for layer in diagnosis.layers:
        for path in PATHS:
            arrays[f"{layer.name}_{path}"] = layer.paths[path].representative
    grids = {
        name if len(volume) == 1 else f"{name}_{channel}": grid
        for name, volume in arrays.items()
        for channel, grid in enumerate(volume)
    }
    x, y, z = diagnosis.input_volume.shape[1:]
    return {**grids, "blamed": weigh_voxels((x, y, z), diagnosis.places.boxes, ()).astype(np.uint16)}
