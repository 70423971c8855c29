"""A frozen network and the feedback network that explains it."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fer_cli.data.volumes import Volumes
from fer_cli.errors import UsageError
from fer_cli.network.backbone import OUTPUT, Backbone, Feature, Features, NetworkSpec
from fer_cli.network.feedback import Decoding, Edit, FeedbackNetwork
from fer_cli.network.signal import Signal, signal_of


class ExplainedNetwork(nn.Module):
    """A backbone, its feedback network, and what their reconstructions mean.

    A classifier alone has no `feedback`. Everything that decodes raises UsageError then.
    `untrained` makes the same pair again, with the weights that training starts from.
    """

    def __init__(
        self, backbone: Backbone, feedback: FeedbackNetwork | None, untrained: Callable[[], "ExplainedNetwork"]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self._modules["feedback"] = feedback  # the property of that name refuses to give None
        self.signal: Signal = signal_of(backbone.spec.input.kind)
        self.untrained = untrained
        # Filters innermost: what a CPU's bfloat16 convolutions read fastest. The backbone's layout is its own affair.
        if feedback is not None:
            feedback.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    @property
    def feedback(self) -> FeedbackNetwork:
        """The feedback network. Raises UsageError where there is none."""
        feedback = self._modules["feedback"]
        if feedback is None:
            raise UsageError(
                "the model is a classifier alone, without a feedback network. Train one on it by fer train --encoder."
            )
        return feedback  # type: ignore[return-value]

    @property
    def spec(self) -> NetworkSpec:
        """Levels, input and classes of the backbone."""
        return self.backbone.spec

    def decode(
        self, code: Feature, entry: str, *, skips: Mapping[str, Tensor] | None = None, edit: Edit | None = None
    ) -> Decoding:
        """See `FeedbackNetwork.forward`."""
        return self.feedback.decode(code, entry, skips=skips, edit=edit)

    def reconstruct(
        self, code: Feature, entry: str, *, skips: Mapping[str, Tensor] | None = None, edit: Edit | None = None
    ) -> Volumes:
        """Voxel values decoded from a feature, such as occupancy probabilities; see `FeedbackNetwork.forward`."""
        return self.signal.value(self.decode(code, entry, skips=skips, edit=edit).raw)

    def reconstruct_each(self, codes: Features) -> Features:
        """Voxel values decoded from each of several levels, every gate shut."""
        return {level: self.signal.value(raw) for level, raw in self.feedback.decode_each(codes).items()}

    def reconstruct_classes(self, probabilities: Float[Tensor, "sample klass"]) -> Volumes:
        """Voxel values decoded from class probabilities."""
        return self.reconstruct(probabilities[:, :, None, None, None], OUTPUT)

    def step_down(self, level: str, feature: Feature) -> Tensor:
        """What one feedback step makes of a level's feature: the level below's, or from the lowest voxel values."""
        found = self.feedback.step(level, feature)
        return self.signal.value(found) if level == self.spec.layer_names[0] else found
