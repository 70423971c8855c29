"""From a classifier's output to class logits: the element of the output, and its activation.

A model may return logits, probabilities or log probabilities, for each class or for the second of two, alone or among
other outputs. Everything above works on logits (sample, class).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from fer_cli.errors import UsageError

Activation = Literal["logits", "softmax", "log_softmax", "sigmoid"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
_TINY = torch.finfo(torch.float32).tiny
_SUM_TOLERANCE = 1e-3
"""How far a sum of class probabilities may lie from 1; half precision rounds each to 5e-4."""


@dataclass(frozen=True)
class Readout:
    """How a classifier's return value becomes class logits.

    `output` is the key or the index of the element that holds the classes, None where the model returns one tensor.
    `activation` is the last operation that the model applied to its logits. A model with one output z, the logit of the
    second of two classes, has logits (0, z). `decision` is the probability of the model's second class of two from
    which on that class is predicted: logits are shifted so that the larger one is the decision. `order` gives for each
    class the model's output that stands for it, None where outputs are in the order of the classes.
    """

    output: str | int | None = None
    activation: Activation = "logits"
    decision: float = 0.5
    order: tuple[int, ...] | None = None

    def select(self, returned: Any) -> Tensor:
        """The tensor of the classes. Raises UsageError for a return value that has no such element."""
        value = returned
        if self.output is not None:
            try:
                value = _element(returned, self.output)
            except Exception as error:  # what a property of the model's own raises too
                raise UsageError(f"the model returns {_described(returned)}, without {self.output!r}.") from error
        if not isinstance(value, Tensor):
            raise UsageError(f"the model returns {_described(value)}. Name the element with the classes: --output KEY.")
        return value

    def logits(self, returned: Any) -> Float[Tensor, "sample klass"]:
        """Class logits, float32. Gradients pass."""
        value = self.select(returned).float()
        if value.ndim <= 1:
            value = value.reshape(-1, 1)
        value = value.flatten(1)
        if value.shape[1] == 1:
            if self.activation == "sigmoid":
                value = torch.logit(value.clamp(1e-7, 1 - 1e-7))
            value = torch.cat([torch.zeros_like(value), value], dim=1)
        elif self.activation == "softmax":
            value = value.clamp(min=_TINY).log()
        if self.decision != 0.5:
            shift = math.log(self.decision / (1 - self.decision))
            value = value - value.new_tensor([0.0, shift])
        return value if self.order is None else value[:, list(self.order)]

    def to_json(self) -> dict[str, object]:
        """The readout as plain JSON values."""
        order = None if self.order is None else list(self.order)
        return {"output": self.output, "activation": self.activation, "decision": self.decision, "order": order}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Readout":
        """The readout from JSON values. Raises KeyError, TypeError or ValueError where they do not fit."""
        if value["activation"] not in ACTIVATIONS or not 0 < float(value["decision"]) < 1:
            raise ValueError(f"a readout {dict(value)} is none")
        order = None if value["order"] is None else tuple(int(at) for at in value["order"])
        return cls(value["output"], value["activation"], float(value["decision"]), order)


def find_readout(
    returned: Any,
    *,
    output: str | None,
    activation: Activation | None,
    decision: float,
    classes: Sequence[str],
    outputs: Sequence[str] | None = None,
) -> Readout:
    """The readout of a model from what it returned for a few samples; what is None is found on the values.

    `classes` are those of the samples, in the order of their labels; `outputs` the same names in the order of the
    model's outputs, None for the same order.

    Raises UsageError for a return value that is no class scores, or has another number of classes, and for an
    activation that the values contradict.
    """
    found = Readout(_key(output, returned))
    value = found.select(returned).detach().float()
    if value.ndim > 2 and value[0].numel() != value.shape[1]:
        raise UsageError(
            f"the model's output has shape {tuple(value.shape)}: a value for each voxel or patch. fer explains "
            "classifiers with one answer a volume; segmentation and regression are not supported."
        )
    if value.ndim == 0:
        raise UsageError("the model returns one number, not class scores of each sample.")
    value = value.reshape(len(value), -1)
    count = max(2, value.shape[1])
    if count != len(classes):
        raise UsageError(
            f"the model has {count} classes, the samples have {len(classes)} ({', '.join(classes[:4])}"
            f"{', …' if len(classes) > 4 else ''}). Give --classes in the order of the model's outputs, or --output."
        )
    require_decision(decision)
    if decision != 0.5 and count != 2:
        raise UsageError(f"--decision is for models of two classes; this one has {count}.")
    seen = _seen_activation(value)
    if activation is not None:
        _check_activation(activation, value)
    return replace(found, activation=activation or seen, decision=decision, order=_order(classes, outputs))


def _key(output: str | None, returned: Any) -> str | int | None:
    """The key or the index that `output` names."""
    if output is None or (isinstance(returned, Mapping) and output in returned):
        return output
    try:
        return int(output)
    except ValueError:
        return output


def require_decision(decision: float) -> None:
    """Raise UsageError for what is no threshold."""
    if not 0 < decision < 1:
        raise UsageError(f"a decision threshold is a probability between 0 and 1, not {decision:g}.")


def _order(classes: Sequence[str], outputs: Sequence[str] | None) -> tuple[int, ...] | None:
    if outputs is None or list(outputs) == list(classes):
        return None
    if sorted(outputs) != sorted(classes):
        raise UsageError(
            f"--classes names {', '.join(outputs[:6])}; the samples' classes are {', '.join(classes[:6])}"
            f"{', …' if len(classes) > 6 else ''}. Give these, in the order of the model's outputs."
        )
    return tuple(list(outputs).index(name) for name in classes)


def _seen_activation(value: Float[Tensor, "sample output"]) -> Activation:
    """What the values look like: probabilities, their logarithms, or else logits."""
    if value.shape[1] == 1:
        # Untrained logits may all lie in (0, 1) by chance, but not on both sides of a half and never outside.
        return "sigmoid" if bool(((value >= 0) & (value <= 1)).all()) and len(value) > 1 else "logits"
    if bool((value >= 0).all()) and _sums_to_one(value):
        return "softmax"
    if bool((value <= 0).all()) and _sums_to_one(value.exp()):
        return "log_softmax"
    return "logits"


def _check_activation(activation: Activation, value: Float[Tensor, "sample output"]) -> None:
    if activation not in ACTIVATIONS:
        raise UsageError(f"--activation {activation}: choose {', '.join(ACTIVATIONS)}.")
    fits = {
        "logits": True,
        "softmax": bool((value >= 0).all()) and _sums_to_one(value),
        "log_softmax": bool((value <= 0).all()) and _sums_to_one(value.exp()),
        "sigmoid": value.shape[1] == 1 and bool(((value >= 0) & (value <= 1)).all()),
    }[activation]
    if not fits:
        low, high = float(value.min()), float(value.max())
        several = " of several labels a sample" if activation == "sigmoid" and value.shape[1] > 1 else ""
        raise UsageError(
            f"the model's outputs{several} run from {low:.3g} to {high:.3g}, and the first sample's sum to "
            f"{float(value[0].sum()):.3g}: that is no {activation}. Give another --activation, or none to find it."
        )


def _sums_to_one(value: Float[Tensor, "sample output"]) -> bool:
    return value.shape[1] > 1 and bool(((value.sum(1) - 1).abs() < _SUM_TOLERANCE).all())


def _element(returned: Any, key: str | int) -> Any:
    """An item of a mapping, a list or a tuple, or an attribute of another object."""
    if isinstance(returned, (Mapping, list)) or isinstance(key, int):
        return returned[key]
    return getattr(returned, key)


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dict with {', '.join(repr(key) for key in value)}"
    if isinstance(value, (tuple, list)):
        kinds = ", ".join(f"{at}: {_described(part)}" for at, part in enumerate(value))
        return f"a {type(value).__name__} ({kinds})"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    fields = getattr(value, "__dataclass_fields__", None)
    return f"a {type(value).__name__}" + (f" with {', '.join(fields)}" if fields else "")
