"""The repair test of one sample: do the blamed locations carry the mistake, more than as many others would?

The features at the locations that blame ranks highest are replaced by those of a donor, a training sample of the class
wanted (`donors`), and the rest of the network runs. The p-value comes from doing the same at locations drawn at random.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fer_cli.data.volumes import Volumes
from fer_cli.diagnosis.donor_path import donor_path
from fer_cli.diagnosis.donors import Donors
from fer_cli.diagnosis.replacement import Replacement, highest, random_scores
from fer_cli.execution.transfer import moved
from fer_cli.network.backbone import Features, NetworkSpec

REPLACED_SHARE = 1 / 8
"""Of the layer's locations."""
RANDOM_DRAWS = 39
_FEWEST_LOCATIONS = 16
"""With fewer there is too little to draw from: of 8 locations and one replaced, p could not fall below 1/8."""


@dataclass(frozen=True)
class RepairTest:
    """What the network says once `replaced` of the layer's `locations` hold the features of `donor`.

    `wanted` is the donor's class, `chosen_by` how it was chosen: by the sample's `label`, or without it by the
    `evidence` of the feedforward clusters. `predicted` is the class that the network then says, at `probability`;
    `gain` by how many nats the log odds of the class wanted against the one predicted before rise. `p_value` is the
    share of random choices of as many locations that gain at least as much, the blamed ones counted in.
    """

    layer: str
    replaced: int
    locations: int
    wanted: str
    chosen_by: str
    donor: str
    predicted: str
    probability: float
    gain: float
    p_value: float

    @property
    def repaired(self) -> bool:
        """Whether the network says the class wanted."""
        return self.predicted == self.wanted


_Made = tuple[Replacement, int, Float[Tensor, "1 location"]]


@dataclass(eq=False)
class Repairer:
    """Replacements of one sample's features by donors', to be taken for the class `given`; each is made once."""

    donors: Donors
    volumes: Volumes
    features: Features
    given: int
    _made: dict[tuple[str, int], _Made] = field(default_factory=dict, init=False, repr=False)

    def replacement(self, layer: str, wanted: int) -> _Made:
        """The replacement at a layer by a donor of the class wanted, its index, and each location's relevance."""
        key = (layer, wanted)
        if key not in self._made:
            feature = self.features[layer].clone()
            found = self.donors.find(layer, feature, np.array([wanted]))
            wanted_class, given_class = (torch.tensor([klass], device=feature.device) for klass in (wanted, self.given))
            backbone = self.donors.network.backbone
            volumes = moved(self.volumes, backbone.device)
            edit = Replacement(backbone, layer, volumes, feature, found.feature, wanted_class, given_class)
            self._made[key] = (edit, int(found.index[0]), donor_path(edit))
        return self._made[key]

    def relevance(self, layer: str, wanted: int) -> Float[np.ndarray, " location"]:
        """Effect of each location of a layer on the log odds of the prediction against `wanted`, in nats."""
        return self.replacement(layer, wanted)[2][0].cpu().numpy().astype(np.float64)


def tested_layer(spec: NetworkSpec, blamed: str) -> str | None:
    """The layer that is tested: the blamed one, or the highest below it that has enough locations, if there is one."""
    names = spec.layer_names[: spec.index(blamed) + 1]
    enough = [name for name in names if spec.locations(name) >= _FEWEST_LOCATIONS]
    return enough[-1] if enough else None


def repair_test(repairer: Repairer, layer: str, *, wanted: int, chosen_by: str, seed: int = 0) -> RepairTest:
    """Replace the most relevant locations of `layer` by those of a donor of the class wanted."""
    donors = repairer.donors
    classes = donors.network.spec.classes
    edit, donor, relevance = repairer.replacement(layer, wanted)
    count = math.ceil(edit.locations * REPLACED_SHARE)
    chosen = highest(relevance, count)
    draws = random_scores(RANDOM_DRAWS, edit.locations, np.random.default_rng(seed), chosen.device)
    drawn = highest(draws, count)
    many = edit.rows(torch.zeros(1 + RANDOM_DRAWS, dtype=torch.int64, device=chosen.device))
    logits = many.logits(many.replaced(torch.cat([chosen, drawn])))
    odds = many.log_odds(logits)
    probabilities = torch.softmax(logits[0], dim=0)
    said = int(probabilities.argmax())
    before = edit.log_odds(edit.logits(edit.feature))
    return RepairTest(
        layer=layer,
        replaced=count,
        locations=edit.locations,
        wanted=classes[wanted],
        chosen_by=chosen_by,
        donor=donors.voxels.names[donor],
        predicted=classes[said],
        probability=float(probabilities[said]),
        gain=float(odds[0] - before[0]),
        p_value=(1 + int((odds[1:] >= odds[0]).sum())) / (1 + RANDOM_DRAWS),
    )
