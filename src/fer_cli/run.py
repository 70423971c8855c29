"""The Python API: `load_run` opens a run's folder as a `Run`, which explains and probes samples.

`fer explain` and `fer probe` print the same objects.
"""

from pathlib import Path

from fer_cli.artifacts import RunArtifacts, choose_device
from fer_cli.data.dataset import Sample
from fer_cli.data.volumes import Location
from fer_cli.diagnosis import diagnosis, probe
from fer_cli.diagnosis.diagnosis import Diagnosis
from fer_cli.diagnosis.probe import Probe
from fer_cli.errors import InputError, UsageError
from fer_cli.storage.run_paths import RunPaths


class Run(RunArtifacts):
    """A run whose samples can be asked about; artifacts are opened when first needed, and stay open."""

    def explain(self, sample: str | Path, *, label: str | None = None, local_layer: str | None = None) -> Diagnosis:
        """Explain how a shape was recognised, or where the wrong class came in.

        `sample` is a file that holds a shape, or the name of a sample in the run's voxels; `label` its true class,
        where the voxels do not tell it; `local_layer` is where the local reconstruction starts, by default
        in the middle of the network (`NetworkSpec.local_layer`).

        Raises InputError for a sample that is not there or cannot be used, UsageError for an unknown class or layer,
        ArtifactError and LineageError where the run's files are missing, damaged or not of one another.
        """
        layer = local_layer or self.network.spec.local_layer
        return diagnosis.explain(self, self._named(sample, label), local_layer=layer)

    def probe(
        self,
        sample: str | Path,
        layer: str,
        location: Location = (0, 0, 0),
        *,
        by: str = "feature",
        code: int | None = None,
    ) -> Probe:
        """Show what one location of one layer stands for (Algorithm 1).

        The response field holds the sample's own `feature` or, by `centroid`, the nearest ones of the codebook, with
        that of `code`, if given, at the location.

        Raises UsageError for an unknown layer or code or a location outside the layer, and what `explain` raises.
        """
        if by not in probe.FILLINGS:
            raise UsageError(f"by={by!r}: choose {' or '.join(map(repr, probe.FILLINGS))}.")
        if code is not None and by == "feature":
            raise UsageError(f"code={code} needs by='centroid': only centroids have codes.")
        centroids_of = self.codebook if by == "centroid" else None
        volume = self._named(sample, None).volume
        return probe.probe(self.network, volume, layer, location, centroids_of=centroids_of, code=code)

    def _named(self, sample: str | Path, label: str | None) -> Sample:
        return self.sample(str(sample), label=label)


def load_run(
    folder: str | Path = "fer-run",
    *,
    voxels: str | Path | None = None,
    model: str | Path | None = None,
    codebook: str | Path | None = None,
    device: str = "auto",
) -> Run:
    """Open the run in `folder`, with any artifact named explicitly taken from there instead.

    Raises InputError if there is no such folder and an artifact is not named, UsageError for a device that is not here.
    """
    named = [None if path is None else Path(path) for path in (voxels, model, codebook)]
    if not Path(folder).is_dir() and None in named:
        raise InputError(f"{folder} is no folder of a run. Run 'fer demo --run {folder}' to make one.")
    paths = RunPaths.in_folder(Path(folder), voxels=named[0], model=named[1], codebook=named[2])
    return Run(paths, device=choose_device(device))
