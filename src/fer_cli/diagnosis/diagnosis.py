"""A diagnosis of one sample: what `explain` finds, as pages, terminals and programs show it."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from fer_cli.calibration.confidence import VIEWS, ReferenceErrors
from fer_cli.calibration.departure import Departure
from fer_cli.data.turning import Axis
from fer_cli.diagnosis import markup
from fer_cli.diagnosis.answer import ANOMALY, INPUT, Answer
from fer_cli.diagnosis.blame import Blame
from fer_cli.diagnosis.categories import LEVEL, Category
from fer_cli.diagnosis.cause import Cause, PoseFound, Signs
from fer_cli.diagnosis.repair import RepairTest
from fer_cli.diagnosis.slicing import Slicing
from fer_cli.diagnosis.wording import percentage
from fer_cli.network.activations import PATHS
from fer_cli.network.backbone import middle_layer


@dataclass(frozen=True)
class PathReading:
    """What the clusters of one layer say of a sample in one path.

    Evidence is in nats, summed over the layer's locations; divided by `temperature` it is what it proved to be worth on
    validation samples, and can be compared between layers. `speaks_for` is the class with the most evidence. The
    exemplar is the training sample that most of the layer's chosen centroids name. The representative is the feature
    map made of the chosen centroids, decoded to voxel values.
    """

    speaks_for: str
    evidence: dict[str, float]
    temperature: float
    exemplar: str
    exemplar_volume: Float[np.ndarray, "channel x y z"]
    representative: Float[np.ndarray, "channel x y z"]


@dataclass(frozen=True)
class LayerReading:
    """What the clusters of one layer say of a sample; `paths` holds a reading of each path by its name."""

    name: str
    locations: int
    paths: dict[str, PathReading]


@dataclass(frozen=True)
class Suspicion:
    """How unlike a correctly classified sample this one looks.

    `score` is in [0, 1], high is suspicious; `by` is what it goes by (`Calibration.alarm`). `p_value` is the share of
    `n_reference` correctly classified validation samples that look at least as suspicious for their predicted class,
    classes weighed against each other and the sample itself counted in on both sides (`PredictedClasses`).
    """

    score: float
    p_value: float
    n_reference: int
    by: str = VIEWS

    @property
    def enough(self) -> bool:
        """Whether there are enough validation samples for a p-value of 0.05."""
        return 1 / (self.n_reference + 1) <= LEVEL

    @property
    def level(self) -> str:
        """The conventional 5 %, and what one correct sample in five reaches; too few samples cannot tell."""
        if not self.enough:
            return f"too few validation samples ({self.n_reference}) for an alarm"
        return "suspicious" if self.p_value <= LEVEL else "somewhat unusual" if self.p_value <= 0.2 else "not unusual"

    @property
    def short(self) -> str:
        """How suspicious it is, which needs no label, as the end of a verdict."""
        if not self.enough:
            return self.words
        return f"by its suspicion score it is {self.level} (p = {self.p_value:.3f})"

    @property
    def words(self) -> str:
        """What share of the validation samples look at least as suspicious, each for its predicted class."""
        if not self.enough:
            return f"too few correctly classified validation samples ({self.n_reference}) for an alarm"
        share = percentage(self.p_value)
        return f"{share} of correctly classified validation samples look at least as suspicious for their class"


@dataclass(frozen=True)
class Viewed:
    """Mean class probabilities of a sample over so many views of it."""

    number: int
    probabilities: dict[str, float]

    @property
    def predicted(self) -> str:
        """The most probable class."""
        return max(self.probabilities, key=lambda name: self.probabilities[name])


@dataclass(frozen=True)
class Nearest:
    """The training samples nearest by the features of the local layer, of the predicted class and of the true one.

    Their names, the nearest first, and the volume of the first. Nothing of a true class that is not known.
    """

    predicted: tuple[str, ...]
    true: tuple[str, ...]
    predicted_volume: Float[np.ndarray, "channel x y z"] | None = None
    true_volume: Float[np.ndarray, "channel x y z"] | None = None


@dataclass(frozen=True)
class Diagnosis:
    """Everything that `fer explain` says of one sample.

    `label` and `correct` are None where the true class is unknown. `cause` is the likely cause of a mistake and its
    remedy, `answer` says where in the network it comes from. `places` are the locations that pictures and pages point
    at: the most unusual ones of the answer's layer where its computation is unusual, else those of `blame`. `viewed` is
    None where samples are not varied. `errors` are Table I's four summed squared errors, `reference_errors` those of
    the validation samples, without the ones that cannot be compared because theirs start from another local layer.
    `slicing` is None of occupancy, `signs` are what the cause rests on. `departure` is None where the codebook does not
    hold what it is measured against. `source` is the sample's file, `trained_on` names the training sample that is the
    same volume, `own_label` is the voxels' class of a sample that is explained as of another one; each None if there is
    none. `turned_from` is the axis of the file that was taken to point up, None of what is not voxelized.
    `repair` holds the repair tests, with the label first, then without; none of a correctly classified sample. The four
    volumes have axes (channel, x, y, z), z up; of occupancy, reconstructions hold probabilities. `index_to_world` and
    `is_placed` are the sample's.
    """

    sample: str
    predicted: str
    label: str | None
    correct: bool | None
    probabilities: dict[str, float]
    viewed: Viewed | None
    errors: dict[str, float]
    reference_errors: ReferenceErrors
    nearest_training_sample: str
    layers: tuple[LayerReading, ...]
    answer: Answer
    places: Blame
    blame: Blame
    repair: tuple[RepairTest, ...]
    departure: Departure | None
    suspicion: Suspicion
    nearest: Nearest
    category: Category
    cause: Cause
    verdict: str
    local_layer: str
    input_volume: Float[np.ndarray, "channel x y z"]
    local_volume: Float[np.ndarray, "channel x y z"]
    nearest_volume: Float[np.ndarray, "channel x y z"]
    class_code_volume: Float[np.ndarray, "channel x y z"]
    slicing: Slicing | None = None
    signs: Signs | None = None
    index_to_world: Float[np.ndarray, "4 4"] = field(default_factory=lambda: np.eye(4))
    is_placed: bool = False
    remarks: tuple[str, ...] = ()
    source: Path | None = None
    trained_on: str | None = None
    own_label: str | None = None
    turned_from: Axis | None = None

    @property
    def world(self) -> Float[np.ndarray, "4 4"] | None:
        """The affine map, None where the sample's file tells no place."""
        return self.index_to_world if self.is_placed else None

    @property
    def recognised_pose(self) -> PoseFound | None:
        """Another pose in which a class is recognised, the true one where it is known; None if there is none.

        In it the sample lies nearer to training samples of that class than in its own.
        """
        pose = None if self.signs is None else self.signs.pose
        if self.signs is None or pose is None:
            return None
        return pose if pose.probability >= self.signs.sure and pose.is_nearer else None

    @property
    def sees_everything(self) -> bool:
        """Whether all `places` see the whole input, so that they point at no part of it."""
        whole = tuple((0, side) for side in self.input_volume.shape[1:])
        return bool(self.places.boxes) and all(tuple(map(tuple, box)) == whole for box in self.places.boxes)

    @property
    def place_words(self) -> str:
        """What `places` are, as a noun in the plural."""
        if self.answer.why == ANOMALY:
            return f"the most unusual locations of {self.places.layer}"
        if self.answer.outcome == INPUT:
            return f"the parts of the input that push most towards {self.predicted}"
        return f"the locations of {self.places.layer} that push most towards {self.predicted}"

    @property
    def seen_words(self) -> str:
        """What part of the input pictures of `places` show."""
        return self.place_words if self.answer.outcome == INPUT else f"what {self.place_words} see"

    @property
    def first_seen_words(self) -> str:
        """The same of the first of `places`."""
        if self.answer.why == ANOMALY:
            return f"what the most unusual location of {self.places.layer} sees"
        if self.answer.outcome == INPUT:
            return f"the part of the input that pushes most towards {self.predicted}"
        return f"what the location of {self.places.layer} that pushes most towards {self.predicted} sees"

    @property
    def pictured_layers(self) -> tuple[LayerReading, ...]:
        """The layers whose representatives are drawn: the upper half, without the output, as in Figs 3, 4, 6."""
        layers = self.layers[:-1]
        lowest = middle_layer([(layer.name, layer.locations) for layer in layers])
        return layers[[layer.name for layer in layers].index(lowest) :]

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = [
            (
                f"{layer.name} (answer)" if layer.name == self.answer.layer else layer.name,
                *(layer.paths[path].speaks_for for path in PATHS),
                *(layer.paths[path].exemplar for path in PATHS),
            )
            for layer in self.layers
        ]
        heads = ("layer", "feedforward speaks for", "feedback speaks for", "feedforward exemplar", "feedback exemplar")
        return (
            markup.paragraph(self.sample, self.verdict)
            + markup.paragraph(self.category.name, self.category.criterion)
            + markup.table(heads, rows)
        )
