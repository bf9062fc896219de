"""What the benchmark of rivals compares: their networks, the chosen rates, and the verdict."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from benchmark_modules import load_benchmark
from torch import Tensor, nn

from nas_gan.errors import InvalidValueError
from nas_gan.networks.searched import Generator, GeneratorConfig


@pytest.fixture(scope="module")
def rivals() -> ModuleType:
    return load_benchmark("rivals")


@pytest.fixture(scope="module")
def nets() -> ModuleType:
    return load_benchmark("rival_nets")


@pytest.fixture
def dense() -> Generator:
    torch.manual_seed(0)
    return Generator(GeneratorConfig(gf_dim=8, latent_dim=12, n_classes=0)).eval()


@pytest.fixture
def latents(dense: Generator) -> Tensor:
    return torch.randn(16, dense.latent_dim, generator=torch.Generator().manual_seed(1))


# -- the verdict


@pytest.mark.parametrize(
    ("curve", "share", "expected"),
    [
        ([(0.25, 40.0), (0.5, 10.0)], 0.25, 40.0),
        ([(0.25, 40.0), (0.5, 10.0)], 0.125**0.5, 25.0),  # half-way by the logarithm
        ([(0.25, 40.0)], 0.5, 20.0),  # half-way to the dense net
        ([(0.25, 40.0)], 1.0, 0.0),
        ([(0.25, 40.0), (0.5, 10.0)], 0.2, None),  # it has no net as small
        ([(0.25, 20.0), (0.5, 50.0)], 0.5, 20.0),  # a smaller net of ours is better
    ],
)
def test_a_curve_is_as_high_as_the_best_net_of_that_size(
    rivals: ModuleType, curve: list[tuple[float, float]], share: float, expected: float | None
) -> None:
    assert rivals.height(curve, share) == (
        expected if expected is None else pytest.approx(expected, abs=1e-9)
    )


def row(rival: str, params: int, rise: float, speed: float, updates: int = 200) -> dict[str, Any]:
    ratio = {"processor": {"value": speed}, "wall": {"value": 1.0}}
    return {
        "rival": rival, "fewer": 5.0, "updates": updates, "rate": 1e-3, "seed": 0, "params": params,
        "rise": rise, "ci_low": rise - 5, "ci_high": rise + 5, "speed": {"1": ratio},
    }  # fmt: skip


def test_a_rival_below_our_curve_is_named(rivals: ModuleType) -> None:
    rows = [
        row("ours", 200, 30.0, 2.0),
        row("above", 200, 31.0, 1.9),
        row("hardly", 200, 28.0, 1.9),
        row("clearly", 200, 20.0, 1.9),
        row("smaller", 100, 90.0, 1.9),
        row("longer", 200, 10.0, 1.9, updates=600),
    ]
    found = {r["rival"]: r for r in rivals.below(rows, "params", 1000)}
    assert set(found) == {"hardly", "clearly", "smaller", "longer"}
    assert (found["hardly"]["ours"], found["hardly"]["clear"]) == (30.0, False)
    assert found["clearly"]["clear"]
    assert (found["smaller"]["ours"], found["smaller"]["clear"]) == (None, False)
    assert found["longer"]["ours"] is None  # after 600 updates we have no net at all


def test_time_and_size_are_judged_apart(rivals: ModuleType) -> None:
    rows = [row("ours", 200, 30.0, 2.0), row("fast", 400, 25.0, 4.0)]
    assert rivals.below(rows, "params", 1000) == []
    [found] = rivals.below(rows, "time", 1000)
    assert (found["rival"], found["share"], found["ours"]) == ("fast", 0.25, None)


# -- which learning rate


def remembered(folder: Path, rivals: ModuleType, settings: Any, scores: dict[Any, Any]) -> None:
    """Write what jobs gave: `scores` maps (size, rate) to what chooses and what is reported."""
    for (fewer, rate), (chosen_by, rise) in scores.items():
        job = rivals.Job("ours", fewer, settings.updates[0], rate, 0)
        record = {"fewer": fewer, "rate": rate, "chosen_by": chosen_by, "rise": rise}
        (folder / f"{job.name}.json").write_text(json.dumps(record))


@pytest.mark.parametrize(("everywhere", "last"), [(False, 1e-3), (True, 5e-4)])
def test_a_rate_is_chosen_by_a_score_that_is_not_reported(
    rivals: ModuleType, tmp_path: Path, everywhere: bool, last: float
) -> None:
    settings = rivals.Settings(
        fewer=(5.0, 8.0), updates=(200,), rates=(5e-4, 1e-3), rates_everywhere=everywhere
    )
    scores = {
        (5.0, 5e-4): (20.0, 10.0),
        (5.0, 1e-3): (10.0, 20.0),
        (8.0, 5e-4): (30.0, 30.0),
        (8.0, 1e-3): (40.0, 40.0),
    }
    remembered(tmp_path, rivals, settings, scores)
    arena = SimpleNamespace(settings=settings, folder=tmp_path)
    lengths: list[int] = []
    found = rivals.measure(arena, ["ours"], lambda rows: lengths.append(len(rows)))
    assert [(r["fewer"], r["rate"]) for r in found] == [(5.0, 1e-3), (8.0, last)]
    assert found[0]["rise"] == 20.0
    assert lengths == [1, 2]


def test_the_files_of_two_jobs_have_two_names(rivals: ModuleType) -> None:
    jobs = [
        rivals.Job(*fields)
        for fields in (
            ("ours", 5.0, 200, 5e-4, 0), ("AIMET", 5.0, 200, 5e-4, 0), ("ours", 3.0, 200, 5e-4, 0),
            ("ours", 5.0, 600, 5e-4, 0), ("ours", 5.0, 200, 2e-3, 0), ("ours", 5.0, 200, 5e-4, 1),
        )
    ]  # fmt: skip
    assert len({job.name for job in jobs}) == len(jobs)
    assert all(Path(job.name).with_suffix(".onnx").stem == job.name for job in jobs)


# -- the networks


def test_without_views_the_images_are_the_same(
    nets: ModuleType, dense: Generator, latents: Tensor
) -> None:
    followed = nets.without_views(dense)
    with torch.no_grad():
        images = dense(latents)
        torch.testing.assert_close(followed(latents), images, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(nets.with_linear(followed)(latents), images)
    linear = [m for m in followed.modules() if isinstance(m, nn.Linear)]
    assert not linear
    assert nets.n_params(nets.with_linear(followed)) == nets.n_params(dense)


def test_a_net_whose_channels_cannot_be_followed_is_refused(nets: ModuleType) -> None:
    with pytest.raises(InvalidValueError, match="linear"):
        nets.without_views(nn.Sequential(nn.Linear(4, 4)))
    labelled = Generator(GeneratorConfig(gf_dim=4, latent_dim=12, n_classes=3))
    with pytest.raises(InvalidValueError, match="conditional"):
        nets.without_views(labelled)
    with pytest.raises(InvalidValueError, match="student"):
        nets.narrower(nn.Sequential(nn.Linear(4, 4)), 10, 0)


def test_a_student_is_the_nearest_width(nets: ModuleType, dense: Generator) -> None:
    wanted = nets.n_params(Generator(GeneratorConfig(gf_dim=5, latent_dim=12, n_classes=0)))
    student = nets.narrower(dense, wanted + 3, 0)
    assert student.config.gf_dim == 5
    first, again, other = (
        net.get_parameter("to_rgb.2.weight")
        for net in (student, nets.narrower(dense, wanted, 0), nets.narrower(dense, wanted, 1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_hessian_is_that_of_the_squared_error_of_the_images(nets: ModuleType) -> None:
    network = nn.Linear(2, 1, bias=False)
    z = torch.tensor([[3.0, 5.0]])
    # The image is w z, so its derivatives are z, and a random sign of it has their squares.
    [found] = nets.gradients(network, z, "Hessian", lambda images: images.sum()).values()
    torch.testing.assert_close(found / nets.N_PROBES, z.square())
    [gradient] = nets.gradients(network, z, "Taylor", lambda images: 2 * images.sum()).values()
    torch.testing.assert_close(gradient, 2 * z)
    assert nets.gradients(network, z, "magnitude", lambda images: images.sum()) == {}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("importance", ["magnitude", "Hessian"])
def test_a_pruned_net_is_not_larger_than_wanted_and_hardly_smaller(
    nets: ModuleType, dense: Generator, latents: Tensor, importance: str
) -> None:
    pytest.importorskip("torch_pruning")
    followed = nets.without_views(dense)
    target = nets.n_params(dense) // 2
    how = nets.Pruning(importance, among_all=False)
    found = nets.with_linear(nets.pruned(followed, target, how, latents, Tensor.mean))
    assert 0.7 * target < nets.n_params(found) <= target  # channels go by the eighth
    with torch.no_grad():
        assert found(latents).shape == (16, *dense.image_shape)


@pytest.mark.filterwarnings("default")
def test_cp_has_the_wanted_size(nets: ModuleType, dense: Generator, latents: Tensor) -> None:
    pytest.importorskip("tltorch")
    target = nets.n_params(dense) // 2
    found = nets.uniform_cp(dense, target)
    assert nets.n_params(found) == pytest.approx(target, rel=0.1)
    with torch.no_grad():
        assert found(latents).shape == (16, *dense.image_shape)
