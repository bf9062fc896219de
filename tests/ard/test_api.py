"""Any generator with any score, from Python: what the README promises."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ard.assembly.surgery import apply_plan
from ard.errors import ArdError, NonFiniteError, NothingToFactorizeError, PlanError
from ard.grid import RankGrid
from ard.measuring.evaluate import Candidate, ScoreEvaluator
from ard.measuring.score import Score
from ard.pipeline import CompressionResult, Effort, compress_generator
from ard.plan import Factorization, RankPlan
from ard.recovery.distillation import Recovery, recover, rows_of
from ard.recovery.recover import Build


def settled(net: nn.Module) -> nn.Module:
    """A net with weights that are nearly of low rank, as trained ones are, ready for use."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                rows, columns = len(layer.weight), layer.weight[0].numel()
                strong = torch.randn(rows, 3, generator=rng) @ torch.randn(
                    3, columns, generator=rng
                )
                weak = torch.randn(rows, columns, generator=rng)
                weight = (strong / 3**0.5 + 0.1 * weak) / columns**0.5
                layer.weight.copy_(weight.view_as(layer.weight))
    return net.eval().requires_grad_(False)


def image_error_score(generator: nn.Module, latents: Tensor) -> ScoreEvaluator:
    targets = generator(latents)
    return ScoreEvaluator(lambda net: (net(latents) - targets).abs().flatten(1).mean(1), generator)


def compressed(
    generator: nn.Module,
    latents: Tensor,
    budget: float = 0.1,
    fractions: tuple[float, ...] = (0.4,),
) -> CompressionResult:
    evaluate = image_error_score(generator, latents[:16])
    return compress_generator(
        generator,
        latents,
        budget=budget,
        evaluators=evaluate,
        grid=RankGrid(fractions=fractions),
        effort=Effort(max_trials=2),
    )


def n_params(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def holds(result: CompressionResult, generator: nn.Module, latents: Tensor, budget: float) -> bool:
    """Smaller, within the budget by the result's own images, and of their shape."""
    images, dense = result.generator(latents), generator(latents)
    error = (images - dense)[:16].abs().mean().item()
    assert images.shape == dense.shape
    assert error == pytest.approx(result.recovered.rise, rel=1e-4)
    return (
        result.budget_met and error <= budget and n_params(result.generator) < n_params(generator)
    )


class DCGAN(nn.Module):
    """Latents `(n, 10)` to images `(n, 3, 16, 16)`, by transposed convolutions alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(10, 24, 4, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.ConvTranspose2d(24, 16, 4, 2, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 3, 4, 2, 1),
        )

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.layers(z[:, :, None, None]))


def test_ten_lines_of_the_readme_on_a_dcgan() -> None:
    generator = settled(DCGAN())
    # --- what a user writes
    latents = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        targets = generator(latents)

    def error(network: nn.Module) -> Tensor:
        return (network(latents) - targets).abs().mean(dim=(1, 2, 3))  # one number per image

    evaluate = ScoreEvaluator(error, generator)
    result = compress_generator(generator, latents, budget=0.1, evaluators=evaluate)
    small = result.generator  # plain torch layers, ready to save or to export
    # ---
    assert result.budget_met
    assert result.recovered.ci_high <= 0.1
    assert n_params(small) < 0.7 * n_params(generator)
    assert error(small).mean().item() == pytest.approx(result.recovered.rise)
    assert all(type(m).__module__.startswith("torch.nn") for m in list(small.modules())[1:])


class ByLabel(nn.Module):
    """`forward(z, y)`: noise `(n, 6)` and labels `(n,)` of four classes to images."""

    def __init__(self) -> None:
        super().__init__()
        self.classes, self.first = nn.Embedding(4, 6), nn.Linear(12, 16 * 16)
        self.conv, self.last = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.first(torch.cat([z, self.classes(y)], dim=1)).relu().view(-1, 16, 4, 4)
        return torch.tanh(self.last(F.interpolate(self.conv(h).relu(), scale_factor=2.0)))


class OneHot(nn.Module):
    """The same with one-hot labels in the last columns of its latents."""

    def __init__(self, net: ByLabel) -> None:
        super().__init__()
        self.net = net

    def forward(self, latents: Tensor) -> Tensor:
        return self.net(latents[:, :6], latents[:, 6:].argmax(dim=1))


def test_a_generator_of_two_arguments_is_wrapped_in_three_lines() -> None:
    generator = OneHot(ByLabel())
    settled(generator)
    labels = F.one_hot(torch.arange(48) % 4, 4).float()
    latents = torch.cat([torch.randn(48, 6, generator=torch.Generator().manual_seed(1)), labels], 1)
    result = compressed(generator, latents, budget=0.2)
    assert holds(result, generator, latents, 0.2)
    assert set(result.plan) <= {"net.first", "net.conv"}
    inner = result.generator.net
    assert isinstance(inner, ByLabel)
    assert torch.equal(inner(latents[:, :6], torch.arange(48) % 4), result.generator(latents))


class UNet(nn.Module):
    """Images `(n, 3, 16, 16)` to images of that size, with a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(3, 16, 3, padding=1)
        self.down2 = nn.Conv2d(16, 24, 4, stride=2, padding=1)
        self.middle = nn.Conv2d(24, 24, 3, padding=1)
        self.up = nn.ConvTranspose2d(24, 16, 4, stride=2, padding=1)
        self.last = nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down1(x).relu()
        h = self.middle(self.down2(skip).relu()).relu()
        return torch.tanh(self.last(torch.cat([self.up(h), skip], dim=1)))


@pytest.mark.parametrize("fit", ["none", "least_squares"])
def test_a_u_net_takes_images_where_others_take_latents(fit: str) -> None:
    generator = settled(UNet())
    images = torch.rand(32, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    result = compress_generator(
        generator,
        images,
        budget=0.1,
        evaluators=image_error_score(generator, images[:16]),
        grid=RankGrid(fractions=(0.4,)),
        fit=fit,  # type: ignore[arg-type]  # a parameter of the test is any text
        effort=Effort(max_trials=2),
    )
    assert holds(result, generator, images, 0.1)
    assert {"down2", "middle", "up"} & set(result.plan)


def loud(net: nn.Module) -> nn.Module:
    """A net with random weights of full rank: what is cut off matters, and training finds some."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
    return net.eval().requires_grad_(False)


def test_a_u_net_is_recovered_on_images_in_one_argument_more() -> None:
    torch.manual_seed(0)
    generator = loud(UNet())
    images = torch.rand(160, 3, 8, 8, generator=torch.Generator().manual_seed(2)) * 2 - 1
    held_out, seen = images[:32], images[32:]
    # --- what a user writes
    settings = Recovery(n_steps=60, batch_size=16, lr=3e-3)

    def train(build: Build, plan: RankPlan) -> nn.Module:
        latents = rows_of(seen, settings.batch_size)
        return recover(
            build(),
            generator,
            settings,
            selection=seen[:32],
            latents=latents,
            distance=nn.functional.mse_loss,
        )

    result = compress_generator(
        generator,
        seen,
        budget=0.5,
        evaluators=image_error_score(generator, held_out),
        grid=RankGrid(("tucker2",), (0.15,)),
        effort=Effort(max_trials=1),
        recover=train,
    )
    # ---
    assert result.budget_met
    assert result.recovered.rise < 0.9 * result.factorized.rise


class Gate(nn.Module):
    """A layer that nobody here has heard of, with weights of its own."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size, size))

    def forward(self, h: Tensor) -> Tensor:
        return h * torch.sigmoid(h @ self.weight)


class Scaled(nn.Linear):
    """A linear layer that does something else besides."""

    def forward(self, h: Tensor) -> Tensor:
        return 2 * super().forward(h)


def test_layers_that_nobody_has_heard_of_pass_through() -> None:
    generator = settled(
        nn.Sequential(nn.Linear(8, 32), Gate(32), Scaled(32, 32), nn.Linear(32, 12))
    )
    latents = torch.randn(32, 8, generator=torch.Generator().manual_seed(3))
    result = compressed(generator, latents, budget=10.0)
    assert result.budget_met
    assert set(result.plan) <= {"0", "3"}
    assert dict(result.skipped)["2"] == "Scaled is a subclass and may compute something else"
    gate = result.generator.get_submodule("1")
    assert isinstance(gate, Gate)
    assert torch.equal(gate.weight, generator.get_parameter("1.weight"))


def test_one_number_as_a_score_and_a_function_as_an_evaluator_do_as_well() -> None:
    generator = settled(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 12)))
    latents = torch.randn(32, 8, generator=torch.Generator().manual_seed(3))
    targets = generator(latents)

    def worst(network: nn.Module) -> float:
        return (network(latents) - targets).abs().max().item()

    def evaluate(candidate: Candidate) -> Score:
        rise = worst(candidate.generator)
        return Score(
            metric="worst_pixel",
            value=rise,
            rise=rise,
            ci_low=rise,
            ci_high=rise,
            n_images=len(latents),
            features="",
            measured=True,
        )

    first, second = (
        compress_generator(
            generator, latents, budget=2.0, evaluators=e, grid=RankGrid(fractions=(0.4, 0.2))
        )
        for e in (evaluate, ScoreEvaluator(worst, generator))
    )
    assert first.plan == second.plan
    assert first.recovered.rise == pytest.approx(second.recovered.rise)
    assert second.recovered.ci_low == second.recovered.ci_high


# -- the doors


def test_a_generator_without_a_layer_to_factorize_is_an_error() -> None:
    latents = torch.randn(8, 8)
    for net in (nn.Tanh(), nn.Linear(8, 3), nn.Conv1d(8, 8, 1, groups=8)):
        net.requires_grad_(False)
        x = latents[:, :, None] if isinstance(net, nn.Conv1d) else latents
        with pytest.raises(NothingToFactorizeError, match="no layer to factorize"):
            compress_generator(net, x, budget=1.0, evaluators=ScoreEvaluator(lambda n: 0.0, net))


def test_a_generator_that_returns_nan_is_an_error_that_names_the_layer() -> None:
    generator = settled(DCGAN())
    generator.get_parameter("layers.3.weight")[0, 0, 0, 0] = math.nan
    latents = torch.randn(8, 10)
    unused = ScoreEvaluator(lambda net: 0.0, generator)
    with pytest.raises(NonFiniteError, match=r"layers\.3: the output of this layer"):
        compress_generator(generator, latents, budget=1.0, evaluators=unused)
    with pytest.raises(NonFiniteError, match="score of the dense generator is NaN"):
        image_error_score(generator, latents)


def test_a_plan_for_another_net_is_an_error_that_names_the_layer() -> None:
    unet, plan = settled(UNet()), RankPlan({"middle": Factorization("tucker2", (4, 4))})
    with pytest.raises(PlanError, match="'middle', which the generator does not have"):
        apply_plan(settled(DCGAN()), plan)
    other = plan.with_shapes({"middle": (48, 48, 3, 3)})
    with pytest.raises(PlanError, match=r"made for a weight of shape \(48, 48, 3, 3\)"):
        apply_plan(unet, other)


def test_every_refusal_is_one_line() -> None:
    unet, thin = settled(UNet()), nn.Linear(8, 3).requires_grad_(False)
    broken = settled(DCGAN())
    broken.get_parameter("layers.3.weight")[0, 0, 0, 0] = math.nan
    unused = ScoreEvaluator(lambda net: 0.0, unet)
    too_large = RankPlan({"middle": Factorization("tucker2", (25, 4))})
    another = RankPlan({"middle": Factorization("tucker2", (4, 4))}, {"middle": (48, 48, 3, 3)})
    refusals: dict[str, Callable[[], object]] = {
        "0 layers": lambda: compress_generator(
            thin, torch.zeros(4, 8), budget=1.0, evaluators=unused
        ),
        "NaN": lambda: compress_generator(
            broken, torch.zeros(4, 10), budget=1.0, evaluators=unused
        ),
        "rank (25, 4)": lambda: apply_plan(unet, too_large),
        "(48, 48, 3, 3)": lambda: apply_plan(unet, another),
    }
    messages = {}
    for name, refused in refusals.items():
        with pytest.raises(ArdError) as caught:
            refused()
        messages[name] = str(caught.value)
        assert "\n" not in messages[name]
    assert all("(24, 24, 3, 3)" in messages[name] for name in ("rank (25, 4)", "(48, 48, 3, 3)"))
    assert all(name in message for name, message in list(messages.items())[1:])


def test_nothing_of_the_generator_is_changed_whatever_its_mode() -> None:
    generator = settled(DCGAN()).train().requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    latents = torch.randn(32, 10, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        targets = generator.eval()(latents)
    generator.train()
    evaluate = ScoreEvaluator(lambda net: (net(latents) - targets).abs().mean().item(), generator)
    compress_generator(
        generator,
        latents,
        budget=0.1,
        evaluators=evaluate,
        grid=RankGrid(fractions=(0.4,)),
        effort=Effort(max_trials=1),
    )
    assert all(torch.equal(generator.state_dict()[n], t) for n, t in before.items())
    assert all(module.training for module in generator.modules())
    assert all(p.requires_grad and p.grad is None for p in generator.parameters())
