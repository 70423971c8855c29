"""Somebody's classifier as a backbone: exact patches, receptive fields, and nothing of the module changed."""

import copy
import signal

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from attachables import (
    Counting,
    Dense,
    HidesNan,
    OneLogit,
    Plain,
    Random,
    Residual,
    Segmenter,
    scaled,
    state_of,
)
from fer_cli.data.volumes import InputSpec
from fer_cli.errors import FerError, ResourceError, UsageError
from fer_cli.network.attached import undisturbed
from fer_cli.network.attached.classifier import Attached, attach_backbone, explain_attached
from fer_cli.network.attached.hooks import run_tapped, unwrapped
from fer_cli.network.attached.model_file import require_storable
from fer_cli.network.backbone import OUTPUT
from networks import CLASSES, SMOKE, grids, network

BOX = InputSpec(1, (12, 8, 16), "intensity")


def volumes(count: int = 6, read: InputSpec = BOX, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, *read.volume, generator=torch.Generator().manual_seed(seed))


def made(kind: type[nn.Module], **given: object) -> nn.Module:
    torch.manual_seed(1)
    return scaled(kind(**given))


def attached(module: nn.Module, **given: object) -> Attached:
    return attach_backbone(module, volumes(), BOX, CLASSES, **given)[0]  # type: ignore[arg-type]


OUTPUTS = {Plain: None, Residual: "scores", Dense: "0"}


@pytest.fixture(params=[Plain, Residual, Dense], ids=lambda kind: kind.__name__.lower())
def foreign(request: pytest.FixtureRequest) -> Attached:
    given = {"pooled": 2 * 1 * 3} if request.param is Plain else {}
    return attached(made(request.param, **given), output=OUTPUTS[request.param])


def test_patching_a_level_with_its_own_activation_changes_no_logit(foreign: Attached) -> None:
    x = volumes(5, seed=3)
    logits, features = foreign.logits(x), foreign.features(x)
    assert logits.std() > 0.01
    for level in foreign.spec.levels:
        assert torch.equal(foreign.logits(x, patch={level.name: features[level.name]}), logits)
    below = {name: features[name] for name in foreign.spec.layer_names[:-1]}
    assert torch.equal(foreign.logits(x, patch=below), logits)
    assert torch.equal(foreign.features(x)[OUTPUT].flatten(1), logits.softmax(1))


def test_what_is_put_into_a_cut_decides_the_logits(foreign: Attached) -> None:
    x, other = volumes(4, seed=4), volumes(4, seed=5)
    features, logits = foreign.features(x), foreign.logits(x)
    assert all(level.is_cut for level in foreign.spec.levels)
    for level in foreign.spec.levels:
        found = foreign.features(other, patch={level.name: features[level.name]})
        assert torch.equal(found[level.name], features[level.name])
        assert torch.equal(found[OUTPUT].flatten(1), logits.softmax(1))
        assert not torch.equal(foreign.logits(other), logits)


def test_no_voxel_outside_a_field_matters_and_one_on_each_face_does(foreign: Attached) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = np.random.default_rng(0)
    for level in foreign.spec.levels:
        fields = foreign.receptive_fields(level.name)
        assert level.field in ("exact", "whole")
        for _ in range(200 if level.field == "exact" else 3):
            where = tuple(int(drawn.integers(side)) for side in level.shape)
            (x0, x1), (y0, y1), (z0, z1) = fields[where]
            x = volumes(1, seed=int(drawn.integers(100)))
            noisy = x + torch.randn(x.shape, generator=generator)
            noisy[:, :, x0:x1, y0:y1, z0:z1] = x[:, :, x0:x1, y0:y1, z0:z1]
            one, same = foreign.features(torch.cat([x, noisy]), [level.name])[level.name][:, :, *where]
            assert torch.equal(one, same)
        where = tuple(side // 2 for side in level.shape)
        box = fields[where]
        for axis in range(3):
            for plane in (box[axis, 0], box[axis, 1] - 1):
                x = volumes(1)
                changed = x.clone()
                changed[0].select(1 + axis, int(plane)).add_(50)
                one, other = foreign.features(torch.cat([x, changed]), [level.name])[level.name][:, :, *where]
                assert not torch.equal(one, other), (level.name, axis, plane)


def test_fields_by_nan_are_those_of_integer_arithmetic() -> None:
    own = network().backbone
    backbone, _ = attach_backbone(
        own, grids(count=4), SMOKE.input, CLASSES, levels=[f"blocks.{n}" for n in own.blocks][:-1]
    )
    for name in own.spec.layer_names[:-1]:
        np.testing.assert_array_equal(backbone.receptive_fields(f"blocks.{name}"), own.receptive_fields(name))
    np.testing.assert_array_equal(backbone.receptive_fields(OUTPUT), own.receptive_fields(OUTPUT))


def test_the_papers_network_through_this_door_is_the_same_function() -> None:
    own = network().backbone
    backbone, _ = attach_backbone(own, grids(count=4), SMOKE.input, CLASSES)
    names = [f"blocks.{name}" for name in own.blocks][:-1]
    assert [level.name for level in backbone.spec.levels] == [n for n in names if n != "blocks.fc6"]
    x = grids(seed=7, count=3)
    assert torch.equal(backbone.logits(x), own.logits(x))
    mine, theirs = backbone.features(x), own.features(x)
    for level in backbone.spec.levels:
        assert torch.equal(mine[level.name], theirs[level.name.removeprefix("blocks.")])
    assert backbone.below_dropout == "blocks.conv5"
    for one, other in zip(backbone.linear_head() or (), own.linear_head(), strict=True):
        assert torch.equal(one, other)


def test_a_level_around_which_something_goes_is_no_cut_and_its_patch_keeps_that() -> None:
    module = made(Residual)
    backbone = attached(module, output="scores", levels=["conv1", "relu#2", "pool"])
    assert {level.name: level.is_cut for level in backbone.spec.levels} == {
        "pool": True,
        "conv1": False,
        "relu#2": True,
    }
    assert [level.call for level in backbone.spec.levels] == [0, 0, 2]
    x, other = volumes(2, seed=1), volumes(2, seed=2)
    feature = backbone.features(x, ["conv1"])["conv1"]
    assert torch.equal(backbone.logits(x, patch={"conv1": feature}), backbone.logits(x))
    mixed = backbone.logits(other, patch={"conv1": feature})
    assert not torch.equal(mixed, backbone.logits(x))
    assert not torch.equal(mixed, backbone.logits(other))
    assert (feature < 0).any()
    assert next(level for level in backbone.spec.levels if level.name == "conv1").signed


def test_captured_features_outlive_operations_in_place() -> None:
    backbone = attached(made(Residual), output="scores", levels=["stem", "relu"])
    x = volumes(2)
    features = backbone.features(x)
    with torch.no_grad():
        stem = backbone.module.stem(x)
    assert torch.equal(features["stem"], stem)
    assert torch.equal(features["relu"], stem.relu())


def test_nothing_of_the_module_changes_also_after_an_error() -> None:
    torch.manual_seed(0)
    module = Counting()
    module.train()
    module.conv1.eval()
    module.fc.weight.requires_grad_(False)
    before, modes = state_of(module), [part.training for part in module.modules()]
    backbone = attached(module, output="scores")
    backbone.features(volumes())
    backbone.receptive_fields("pool")
    backbone.weights_of("pool"), backbone.linear_head(), backbone.below_dropout
    with pytest.raises(ValueError, match="holds features of shape"):
        backbone.logits(volumes(), patch={"pool": torch.zeros(1, 1, 1, 1, 1)})
    with pytest.raises(UsageError, match=r"does not read 1 volumes of 4×12×8×16: RuntimeError: .*expected input"):
        backbone.features(torch.zeros(1, 4, 12, 8, 16))
    with pytest.raises(KeyboardInterrupt):
        interrupted(backbone)
    assert modes == [part.training for part in module.modules()]
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in module.modules())
    assert not module.fc.weight.requires_grad
    assert module.conv2.weight.requires_grad
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in module.parameters())


def interrupted(backbone: Attached) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    hook = backbone.module.get_submodule("conv2").register_forward_hook(stop)
    try:
        backbone.logits(volumes())
    finally:
        hook.remove()


# Nothing of the user's is changed, whatever the model does


class Writes(Plain):
    """Does to itself, its input and the process what `what` names, in every pass."""

    def __init__(self, what: str) -> None:
        super().__init__(pooled=6)
        self.what = what
        self.register_buffer("steps", torch.zeros(1))
        self.register_buffer("cache", torch.zeros(0))
        self.register_buffer("none", None)
        self.register_buffer("nan", torch.full((2,), torch.nan))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        match self.what:
            case "input":
                x.mul_(0.5)
            case "reassigned":
                self.steps = self.steps + 1
            case "resized":
                self.cache.resize_(len(x)).fill_(1)
            case "filled":
                self.none, self.nan = torch.zeros(2), torch.zeros(2)
            case "new":
                if not hasattr(self, "late"):
                    self.late = nn.Parameter(torch.ones(1))
                x = x * self.late
            case "large batches":
                if len(x) > 4:
                    self.steps += 1
            case "generators":
                torch.rand(1), np.random.rand()  # noqa: NPY002 - what models use
            case "gradients":
                torch.set_grad_enabled(True)
        return super().forward(x)


WRITES = ("input", "reassigned", "resized", "filled", "new", "large batches", "generators", "gradients")


def everything_of(module: nn.Module) -> dict[str, object]:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {
        **{name: (id(t), t.detach().clone().numpy().tobytes(), t.requires_grad, t.grad) for name, t in tensors.items()},
        "modes": [part.training for part in module.modules()],
        "generators": (torch.get_rng_state().tolist(), str(np.random.get_state())),  # noqa: NPY002
        "gradients": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("what", WRITES)
def test_whatever_a_model_does_in_a_pass_is_undone(what: str) -> None:
    module = made(Writes, what=what).train()
    x = volumes()
    before, input = everything_of(module), x.clone()
    backbone = attached(module)
    with torch.no_grad():
        features = backbone.features(x)
    backbone.logits(x)
    assert everything_of(module) == before
    assert torch.equal(x, input)
    assert not any(feature.requires_grad for feature in features.values())


class Normalising(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.fc.weight.data = functional.normalize(self.fc.weight.data)
        return super().forward(x)


class Drifting(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.c1.weight.mul_(1.001)
        return super().forward(x)


class Merging(nn.Linear):
    """As LoRA: weights are merged for evaluation."""

    def train(self, mode: bool = True) -> "Merging":
        if mode != self.training:
            self.weight.data += 0.1 if not mode else -0.1
        return super().train(mode)


class WithMerging(Plain):
    def __init__(self) -> None:
        super().__init__(pooled=6)
        self.fc = Merging(48, 3)


@pytest.mark.parametrize("kind", [Normalising, Drifting, WithMerging])
def test_a_model_that_writes_to_its_parameters_is_refused_and_is_as_before(kind: type[nn.Module]) -> None:
    module = made(kind, **({} if kind is WithMerging else {"pooled": 6})).train()
    before = everything_of(module)
    with pytest.raises(UsageError, match=r"writes to its parameter (fc|c1)\.weight in evaluation mode"):
        attached(module)
    assert everything_of(module) == before
    if kind is WithMerging:
        attached(module.eval())


class Locked(Plain):
    """Lets nothing be set once it is made."""

    def __init__(self) -> None:
        super().__init__(pooled=6)
        self.locked = True

    def __setattr__(self, name: str, value: object) -> None:
        if "locked" in vars(self) and name != "training":
            raise AttributeError("locked")
        super().__setattr__(name, value)


def test_modules_that_can_hardly_be_set_are_put_back_too() -> None:
    locked = made(Locked).train()
    before = everything_of(locked)
    assert attached(locked).logits(volumes()).shape == (6, 3)
    assert everything_of(locked) == before
    with torch.inference_mode():
        inference = made(Plain, pooled=6)
    with torch.no_grad():
        assert attached(inference).logits(volumes()).shape == (6, 3)
    assert all(parameter.requires_grad for parameter in inference.parameters())


def test_ctrl_c_while_a_model_is_put_back_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    module = made(Plain, pooled=6).train()
    backbone = attached(module)
    restore = undisturbed._Kept.restore

    def interrupted_restore(self: undisturbed._Kept) -> str | None:
        signal.raise_signal(signal.SIGINT)
        return restore(self)

    monkeypatch.setattr(undisturbed._Kept, "restore", interrupted_restore)
    with pytest.raises(KeyboardInterrupt):
        backbone.logits(volumes())
    assert all(part.training for part in module.modules())
    assert all(parameter.requires_grad for parameter in module.parameters())


class Failing(Plain):
    """Fails from the pass `after` on, in its own way."""

    def __init__(self, error: BaseException, after: int = 3) -> None:
        super().__init__(pooled=6)
        self.error, self.left = error, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().forward(x)


@pytest.mark.parametrize("after", range(0, 12, 3))
def test_an_error_of_the_model_is_one_line_of_its_own_words(after: int) -> None:
    with pytest.raises(UsageError, match=r"does not read \d volumes of .*: ValueError: late failure of a model$"):
        attached(Failing(ValueError("late failure\nof a model"), after).eval())
    with pytest.raises(UsageError, match=r"SystemExit: 0"):
        attached(Failing(SystemExit(0), after).eval())
    with pytest.raises(ResourceError, match=r"out of memory in the model with \d volumes at once\. Try --batch"):
        attached(Failing(MemoryError(), after).eval())


class Centred(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - x.mean(0, keepdim=True))


class Squeezed(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).squeeze()


@pytest.mark.filterwarnings("ignore:.*(torch.jit|torch.ao).*:DeprecationWarning")
def test_models_that_cannot_be_tapped_or_depend_on_the_batch_are_refused() -> None:
    refusals = {
        r"depends on the others in its batch": made(Centred, pooled=6),
        r"gives 3 answers for one volume alone\. Look for squeeze": made(Squeezed, pooled=6),
        r"TorchScript take no hooks": torch.jit.trace(made(Plain, pooled=6), volumes()),
    }
    for said, module in refusals.items():
        with pytest.raises(UsageError, match=said):
            attached(module)
    with pytest.raises(UsageError, match=r"a torch\.nn\.Module is needed, not a class; give an instance"):
        unwrapped(Plain)


class CutsGradients(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.detach().nan_to_num())


def test_a_level_of_which_nothing_shows_is_taken_to_see_the_whole_input() -> None:
    backbone = attached(made(CutsGradients, pooled=6), levels=["c1"])
    assert backbone.spec.levels[0].field == "whole"


def test_an_answer_that_is_random_is_refused() -> None:
    with pytest.raises(UsageError, match=r"answers the same volumes differently in evaluation mode .* self\.training"):
        attached(made(Random, pooled=6))


def test_fields_that_nan_does_not_show_are_widened_and_said_to_be_estimates() -> None:
    plain, hiding = made(Plain, pooled=6), made(HidesNan, pooled=6)
    hiding.load_state_dict(plain.state_dict())
    exact, estimated = attached(plain), attached(hiding)
    assert [level.field for level in exact.spec.levels[:1]] == ["exact"]
    assert [level.field for level in estimated.spec.levels[:1]] == ["gradient"]
    narrow, wide = exact.receptive_fields("c1"), estimated.receptive_fields("c1")
    assert (wide[..., 0] <= narrow[..., 0]).all()
    assert (wide[2, 1, 3] - narrow[2, 1, 3] == [[-2, 2], [-2, 2], [-2, 2]]).all()


class RefusesNan(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.isfinite().all(), "voxels are not finite"
        return super().forward(x)


def test_fields_of_a_network_that_refuses_nan_are_found_by_noise_and_said_to_be_estimates() -> None:
    plain, refusing = made(Plain, pooled=6), made(RefusesNan, pooled=6)
    refusing.load_state_dict(plain.state_dict())
    exact, estimated = attached(plain), attached(refusing)
    for level in exact.spec.layer_names[:-1]:
        np.testing.assert_array_equal(estimated.receptive_fields(level), exact.receptive_fields(level))
        if exact.spec.levels[exact.spec.index(level)].field == "exact":
            assert estimated.spec.levels[estimated.spec.index(level)].field == "noise"


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_one_logit_stands_for_two_classes(sigmoid: bool, flat: bool) -> None:
    torch.manual_seed(0)
    module = OneLogit(sigmoid, flat).eval()
    x = volumes()
    activation = "sigmoid" if sigmoid else "logits"
    backbone, _ = attach_backbone(module, x, BOX, ("benign", "malignant"), activation=activation)
    with torch.no_grad():
        said = module(x).reshape(-1)
    second = said if sigmoid else torch.sigmoid(said)
    torch.testing.assert_close(backbone.features(x)[OUTPUT][:, 1, 0, 0, 0], second, atol=1e-6, rtol=0)
    decided, _ = attach_backbone(module, x, BOX, ("benign", "malignant"), activation=activation, decision=0.3)
    assert torch.equal(decided.logits(x).argmax(1), (second >= 0.3).long())


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_wrappers_are_taken_off() -> None:
    module = made(Plain, pooled=6)
    expected = attached(module)
    for wrapped in (nn.DataParallel(module), torch.compile(module)):
        found = attached(wrapped)  # type: ignore[arg-type]
        assert found.spec == expected.spec
        assert found.fingerprint == expected.fingerprint
        assert torch.equal(found.logits(volumes()), expected.logits(volumes()))


@pytest.mark.parametrize("kind", ["channels_last", "bfloat16", "float64"])
def test_other_layouts_and_precisions_patch_exactly(kind: str) -> None:
    module = made(Residual)
    if kind == "channels_last":
        module = module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    else:
        module = module.to(getattr(torch, kind))
    backbone = attached(module, output="scores")
    x = volumes(3)
    features, logits = backbone.features(x), backbone.logits(x)
    assert all(feature.dtype == torch.float32 for feature in features.values())
    for level in backbone.spec.levels:
        patched = backbone.logits(x, patch={level.name: features[level.name]})
        if kind == "float64":  # features are float32
            torch.testing.assert_close(patched, logits, atol=1e-5, rtol=1e-5)
        else:
            assert torch.equal(patched, logits)


def test_autocast_of_the_caller_changes_nothing() -> None:
    backbone = attached(made(Plain, pooled=6))
    x = volumes(3)
    expected = backbone.logits(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(backbone.logits(x), expected)


def test_gradients_pass_through_a_patch() -> None:
    backbone = attached(made(Residual), output="scores")
    x = volumes(2)
    feature = backbone.features(x, ["pool"])["pool"].detach().requires_grad_()
    (gradient,) = torch.autograd.grad(backbone.logits(x, patch={"pool": feature})[:, 0].sum(), feature)
    assert gradient.abs().sum() > 0


def test_outputs_in_another_order_are_put_in_that_of_the_classes() -> None:
    module = made(Plain, pooled=6)
    plain = attached(module)
    turned = attached(module, outputs=(CLASSES[2], CLASSES[0], CLASSES[1]))
    x = volumes(3)
    assert torch.equal(turned.logits(x), plain.logits(x)[:, [1, 2, 0]])
    pooled = attached(made(Residual), output="scores", levels=["drop"], outputs=(CLASSES[2], CLASSES[0], CLASSES[1]))
    weight, bias = pooled.linear_head() or ()
    last = pooled.features(x)["drop"].flatten(1)
    torch.testing.assert_close(last @ weight.T + bias, pooled.logits(x), atol=1e-4, rtol=1e-4)


def test_networks_that_are_no_classifiers_are_refused_in_one_line() -> None:
    refusals = {
        r"3 classes, the samples have 4": lambda: attach_backbone(made(Plain, pooled=6), volumes(), BOX, "abcd"),
        r"a value for each voxel or patch": lambda: attached(made(Segmenter)),
        r"a dict with 'scores', 'map'. Name the element": lambda: attached(made(Residual)),
        r"a dict with 'scores', 'map', without 'score'": lambda: attached(made(Residual), output="score"),
        r"does not read 6 volumes of 1×12×8×16: .*: mat1 and mat2 shapes": lambda: attached(made(Plain, pooled=5)),
        r"no activation 'conv9'.*Near: conv2, conv1": lambda: attached(
            made(Residual), output="scores", levels=["conv9"]
        ),
        r"no softmax": lambda: attached(made(Plain, pooled=6), activation="softmax"),
        r"--classes names a, b": lambda: attached(made(Plain, pooled=6), outputs=("a", "b")),
        r"--decision is for models of two classes": lambda: attached(made(Plain, pooled=6), decision=0.3),
        r"same volume": lambda: attach_backbone(made(Plain, pooled=6), torch.ones(3, *BOX.volume), BOX, CLASSES),
    }
    for said, call in refusals.items():
        with pytest.raises(UsageError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_features_that_are_not_finite_name_the_level() -> None:
    module = made(Plain, pooled=6)
    with torch.no_grad():
        module.c2.weight.mul_(1e38)
        module.c1.weight.mul_(1e8)
    with pytest.raises(FerError, match="features of c2 are not finite"):
        attached(module, levels=["c1", "c2"])


def test_an_untrained_copy_has_other_weights_and_the_same_levels() -> None:
    backbone = attached(made(Residual), output="scores")
    fresh = explain_attached(backbone).untrained().backbone
    assert isinstance(fresh, Attached)
    assert fresh.spec == backbone.spec
    assert fresh.fingerprint != backbone.fingerprint
    assert not torch.equal(fresh.logits(volumes()), backbone.logits(volumes()))


def test_weights_are_told_apart_by_the_levels_between_which_they_lie() -> None:
    backbone = attached(made(Residual), output="scores")
    names = {id(parameter): name for name, parameter in backbone.module.named_parameters()}
    found = {level: [names[id(weight)] for weight in backbone.weights_of(level)] for level in backbone.spec.layer_names}
    every = [name for of in found.values() for name in of]
    assert sorted(every) == sorted(names.values())
    assert found["stem"] == ["stem.0.weight", "stem.1.weight", "stem.1.bias"]
    assert found["output"] == ["fc.weight", "fc.bias"]


def test_a_copy_of_a_run_can_be_made() -> None:
    backbone = attached(made(Plain, pooled=6))
    other = copy.deepcopy(explain_attached(backbone)).backbone
    weight = next(iter(other.weights_of("c1")))
    with torch.no_grad():
        weight.add_(1)
    assert not torch.equal(other.logits(volumes()), backbone.logits(volumes()))
    run = run_tapped(backbone.module, volumes(), frozenset())
    assert torch.equal(run.returned, backbone.logits(volumes()))


class Named(nn.Module):
    """Convolutions of these names, one after the other; no pooling module."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for at, name in enumerate(names):
            self.add_module(name, nn.Conv3d(1 if not at else 4, 4, 3, stride=2 if not at else 1, padding=1))
        self.names, self.fc = names, nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.names:
            x = torch.relu(self._modules[name](x))  # type: ignore[misc]
        return self.fc(x.mean(dim=(2, 3, 4)))


def test_activations_that_no_level_can_be_called_like_are_passed_over_unless_named() -> None:
    backbone = attached(made(named("output", "a:b", "c#1", "d\0", "e\ud800", "f")))
    assert [level.name for level in backbone.spec.levels] == ["f"]
    with pytest.raises(UsageError, match="a level cannot be called 'output'"):
        attached(made(named("output", "f")), levels=["output", "f"])


def named(*names: str) -> type[nn.Module]:
    return lambda: Named(*names)  # type: ignore[return-value]


def with_state(name: str, tensor: torch.Tensor) -> nn.Module:
    module = made(Plain, pooled=6)
    module._buffers[name] = tensor
    return module


class WithState(Plain):
    def get_extra_state(self) -> dict[str, int]:
        return {"a": 1}


def test_a_state_that_cannot_be_stored_is_refused() -> None:
    require_storable(made(Plain, pooled=6))
    refusals = {
        r"'_extra_state' is a dict": WithState(),
        r"called 'a/b' in part": with_state("a/b", torch.zeros(1)),
        r"called '\.' in part": with_state(".", torch.zeros(1)),
        r"sparse_coo": with_state("x", torch.eye(2).to_sparse()),
        r"of torch\.complex64": with_state("x", torch.zeros(1, dtype=torch.complex64)),
        r"without content": with_state("x", torch.zeros(1, device="meta")),
    }
    for said, module in refusals.items():
        with pytest.raises(UsageError, match=said):
            require_storable(module)
