from __future__ import annotations

from pathlib import Path

import pytest
import torch
from contracts import scored
from torch import Tensor, nn

from ard.activation_sites import activation_model, find_activations
from ard.activations import ActivationProfile, fit_gate, fitting_error, is_elementwise
from ard.assembly.assembler import Assembler
from ard.assembly.surgery import apply_plan, apply_structure, describe_structure
from ard.costs.cost import LatencyCost, params_cost
from ard.costs.latency_table import Conditions, LatencyRow, LatencyTable
from ard.errors import PlanError, RankError
from ard.layers import profile_layers
from ard.measuring.journal import FileJournal
from ard.measuring.measurement import Measurement
from ard.measuring.sensitivity import SensitivityTable
from ard.plan import ActivationForm, Factorization, RankPlan, parse_replacement
from ard.search.candidates import competing_forms
from nas_gan.errors import CheckpointError
from nas_gan.networks.activations import PMish, make_activation
from nas_gan.networks.gates import FORMS, Gate
from nas_gan.networks.latents import latent_bank

LATENTS = latent_bank(12, 8, seed=2)


class SoftGate(nn.Module):
    """An activation of somebody else, known by what it does alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tanh(nn.functional.softplus(1.5 * x))


class PerChannel(nn.Module):
    """As slow as an activation, but a function of the channel too."""

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.arange(1, x.shape[1] + 1).to(x)[:, None, None]
        return x * torch.tanh(nn.functional.softplus(weight * x))


class Net(nn.Module):
    latent_dim, n_classes = 8, 0

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 16 * 4 * 4)
        self.pmish, self.relu, self.gelu = PMish(), nn.ReLU(), nn.GELU()
        self.stranger, self.channels = SoftGate(), PerChannel()
        self.first = nn.Conv2d(16, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.pmish(self.linear(z).view(-1, 16, 4, 4))
        x = self.relu(self.first(self.stranger(x)))
        return torch.tanh(self.last(self.gelu(self.channels(self.second(self.gelu(x))))))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def activations(net: Net) -> tuple[ActivationProfile, ...]:
    return find_activations(net, LATENTS[:2])


def test_activations_of_many_operators_are_found_by_what_they_do(
    activations: tuple[ActivationProfile, ...],
) -> None:
    found = {activation.name: activation for activation in activations}

    assert list(found) == ["pmish", "stranger", "gelu"]  # in the order in which they run
    assert len(found["gelu"].signatures) == 2  # one for each call
    assert found["pmish"].signatures[0].endswith("in=16x4x4")
    assert found["pmish"].params() == 1
    assert found["stranger"].params() == 0


@pytest.mark.parametrize("form", FORMS)
def test_a_gate_is_fitted_to_what_enters_the_activation(form: str) -> None:
    """At the constants of the fit, no other constants nearby are better."""
    module, samples = PMish(), torch.linspace(-3, 2, 301, dtype=torch.float64)

    gate = fit_gate(module, ActivationForm(form), samples)
    error = fitting_error(module, gate, samples)

    assert error < 0.1
    for parameter in gate.parameters():
        for step in (-0.05, 0.05):
            with torch.no_grad():
                parameter.add_(step)
                assert fitting_error(module, gate, samples) > error
                parameter.sub_(step)


def test_a_gate_reproduces_an_activation_of_its_own_form() -> None:
    """Swish is the gate without a shift: the fit finds its slope, and a scale of one."""
    swish = make_activation("swish")
    with torch.no_grad():
        swish.beta.fill_(1.7)  # type: ignore[operator]

    gate = fit_gate(swish, ActivationForm("swish_gate"), torch.linspace(-4, 4, 200))

    assert gate.slope.item() == pytest.approx(1.7, rel=1e-4)
    assert gate.scale.item() == pytest.approx(1.0, rel=1e-4)


def test_elementwise_means_the_same_function_everywhere() -> None:
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    assert is_elementwise(SoftGate(), x)
    assert not is_elementwise(PerChannel(), x)
    assert not is_elementwise(nn.Softmax(dim=1), x)
    assert not is_elementwise(nn.MaxPool2d(2), x)


@pytest.mark.parametrize("form", FORMS)
def test_a_plan_puts_a_gate_in_the_place_of_an_activation(net: Net, form: str) -> None:
    plan = RankPlan({"pmish": ActivationForm(form), "first": Factorization("spatial_svd", (4,))})

    changed = apply_plan(net, plan)
    rebuilt = apply_structure(net, describe_structure(changed, plan))
    rebuilt.load_state_dict(changed.state_dict())

    [gate] = changed.get_submodule("pmish").children()
    assert isinstance(gate, Gate)
    assert gate.form == form
    assert isinstance(net.pmish, PMish)  # the dense net keeps its own
    with torch.no_grad():
        assert torch.equal(rebuilt(LATENTS), changed(LATENTS))


def test_a_gate_is_fitted_to_the_inputs_that_the_assembler_saw(
    net: Net, activations: tuple[ActivationProfile, ...]
) -> None:
    """Fitted to its own inputs, the gate moves the images less than one fitted to others."""
    layers = profile_layers(net, LATENTS[:2]).layers
    assemble = Assembler.measure(net, LATENTS, layers, activations=activations)
    plan = RankPlan({"stranger": ActivationForm("swish_gate")})

    with torch.no_grad():
        dense = net(LATENTS)
        fitted, other = (g(LATENTS) - dense for g in (assemble(plan), apply_plan(net, plan)))

    assert 0 < fitted.norm() < other.norm()


def test_gates_train_like_any_layer(net: Net) -> None:
    changed = apply_plan(net, RankPlan({"pmish": ActivationForm("gate")})).requires_grad_(True)

    changed(LATENTS).square().mean().backward()

    [gate] = changed.get_submodule("pmish").children()
    assert all(parameter.grad is not None for parameter in gate.parameters())


@pytest.mark.parametrize("name", ["channels", "first", ""])
def test_a_gate_only_replaces_an_activation(net: Net, name: str) -> None:
    with pytest.raises(PlanError, match="which is not an activation"):
        apply_plan(net, RankPlan({name: ActivationForm("gate")}))


def test_a_factorization_does_not_fit_an_activation(
    net: Net, activations: tuple[ActivationProfile, ...]
) -> None:
    with pytest.raises(RankError, match="which is an activation"):
        activations[0].params(Factorization("svd", (2,)))
    with pytest.raises(PlanError, match="which has no factors"):
        apply_plan(net, RankPlan({"pmish": Factorization("svd", (2,))}))


def test_plans_with_gates_survive_json(net: Net) -> None:
    plan = RankPlan({"pmish": ActivationForm("gate"), "first": Factorization("spatial_svd", (4,))})

    assert RankPlan.from_json(plan.to_json()) == plan
    assert parse_replacement(" swish_gate ") == ActivationForm("swish_gate")
    for text in ("gate(3)", "swish", "gate()"):
        with pytest.raises(PlanError):
            parse_replacement(text)


def test_gates_compete_by_measured_time(
    net: Net, activations: tuple[ActivationProfile, ...]
) -> None:
    """A gate is worth trying if it is faster than every more accurate one; size is no reason."""
    [pmish] = (a for a in activations if a.name == "pmish")
    under = Conditions(1, "onnxruntime", "a board", 1, "fp32")
    times = {None: 10.0, "gate": 6.0, "hard_gate": 7.0, "swish_gate": 2.0}
    rows = [
        LatencyRow(text, form and ActivationForm(form), ms, ms, ms, under)  # type: ignore[arg-type]
        for text in pmish.signatures
        for form, ms in times.items()
    ]
    table = LatencyTable.from_csv(LatencyTable(tuple(rows)).to_csv())
    entering = {"pmish": torch.linspace(-2, 2, 100)}

    chosen = competing_forms(net, [pmish], entering, LatencyCost(table))

    assert [str(form) for _, form in chosen] == ["gate", "swish_gate"]
    assert competing_forms(net, [pmish], entering, params_cost) == []
    assert table.prices(pmish)
    assert not table.prices(activations[1])


def test_an_activation_is_timed_at_its_own_size() -> None:
    import onnxruntime

    model = activation_model(PMish(), (3, 5, 7), torch.float32)

    session = onnxruntime.InferenceSession(model)
    x = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(1))
    assert session.get_inputs()[0].shape[1:] == [3, 5, 7]
    found = torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
    with torch.no_grad():
        assert torch.allclose(found, PMish()(x), atol=1e-5)


@pytest.mark.parametrize("spec", [{"type": "Gate", "form": "open"}, {"type": "Gate"}])
def test_a_structure_with_an_unknown_gate_is_refused(net: Net, spec: dict[str, str]) -> None:
    with pytest.raises(CheckpointError, match="Gate of the compressed structure"):
        apply_structure(net, {"pmish": [spec]})


def test_scores_of_gates_survive_the_table_and_the_journal(
    activations: tuple[ActivationProfile, ...], tmp_path: Path
) -> None:
    pmish = activations[0]
    form = ActivationForm("hard_gate")
    table = SensitivityTable.of(scored(0.0), {(pmish.name, form): scored(2.5)}, [pmish])
    measured = Measurement("single", RankPlan({pmish.name: form}), scored(2.5))
    FileJournal(tmp_path / "journal.jsonl", {"seed": 0}).append(measured)

    [row] = SensitivityTable.from_csv(table.to_csv()).rows
    [again] = FileJournal(tmp_path / "journal.jsonl", {"seed": 0}).measurements()

    assert (row.layer, row.choice, row.score.rise) == (pmish.name, form, 2.5)
    assert (row.params, row.macs) == (3, 0)
    assert again == measured
