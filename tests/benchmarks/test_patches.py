"""What the benchmark of blown-out samples counts, and how it compares them with others."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from benchmark_modules import load_benchmark
from torch import Tensor, nn

from nas_gan.networks.activations import PMish


@pytest.fixture(scope="module")
def patches() -> ModuleType:
    return load_benchmark("patches")


def clothes() -> Tensor:
    """One image of the data's kind: a white rectangle on black that leaves the padding alone."""
    image = torch.full((1, 3, 32, 32), -1.0)
    image[:, :, 2:-2, 8:-8] = 1.0
    return image


def test_white_clothes_within_the_padding_are_not_blown_out(patches: ModuleType) -> None:
    assert not patches.blown_out(clothes()).any()


@pytest.mark.parametrize(("light", "blown"), [(0.4, False), (0.6, True)])
def test_one_light_pixel_of_the_padding_is(patches: ModuleType, light: float, blown: bool) -> None:
    image = clothes()
    image[:, :, 31, 1] = 2 * light - 1
    assert patches.blown_out(image).tolist() == [blown]


@pytest.mark.parametrize(
    ("pixels", "apart", "blown"), [(10, 1.0, False), (11, 1.0, True), (11, 0.4, False)]
)
def test_colour_on_more_than_a_hundredth_is(
    patches: ModuleType, pixels: int, apart: float, blown: bool
) -> None:
    image = clothes()  # of 1,024 pixels
    image[:, 2, 10, 8 : 8 + pixels] = 1 - apart  # a range of 2
    assert patches.blown_out(image).tolist() == [blown]


def test_a_probability_halves_ties(patches: ModuleType) -> None:
    a, b = torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0])
    # Above: 1 > none; 3 > 1 and 2. One tie.
    assert patches.probability_above(a, b) == pytest.approx(2.5 / 4)


def test_a_share_has_a_binomial_error_and_a_rise_that_of_pairs(patches: ModuleType) -> None:
    flags = torch.tensor([True, False, False, False])
    assert patches.share(flags) == pytest.approx({"share": 0.25, "se": (0.25 * 0.75 / 4) ** 0.5})
    assert patches.share_rise(flags, flags) == {"value": 0.0, "se": 0.0}
    rise = patches.share_rise(torch.tensor([True, True, False, False]), flags)
    assert rise == pytest.approx({"value": 0.25, "se": 0.5 / 2})


def test_betas_of_one_are_in_a_copy(patches: ModuleType) -> None:
    net = nn.Sequential(PMish())
    with torch.no_grad():
        net.get_parameter("0.beta").fill_(0.5)
    assert patches.with_betas_of_one(net)[0].beta.item() == 1.0
    assert net.get_parameter("0.beta").item() == 0.5


def test_a_site_is_found_by_the_size_of_its_output(patches: ModuleType) -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    net = nn.Sequential(layer, nn.Unflatten(1, (1, 1, 1)), nn.Tanh())
    latents = torch.tensor([[1.0], [3.0], [-10.0]])
    found = patches.activation_sites(net, latents, torch.tensor([False, False, True]))
    assert found["latent_length_above"] == 1.0
    first = found["layers"][0]
    # Sizes 2, 6 and 20: the others have mean 4 and deviation 8 ** 0.5.
    assert (first["site"], first["other"], first["blown_out"]) == ("0", 4.0, 20.0)
    assert first["z"] == pytest.approx(16 / 8**0.5)
    assert found["before_tanh"]["blown_out"] == -20.0


def test_samples_like_the_generated_ones_are_the_suspicious(patches: ModuleType) -> None:
    real, fake = torch.zeros(4, 2), torch.full((4, 2), 3.0)
    scores = torch.tensor([[0.0, 0.0], [3.0, 3.0]])
    for loss in ("latest", "mmd"):
        low, high = patches.suspicion(loss, scores, real, fake).tolist()
        # The kernel of the squared distance 18 is exp(-9).
        assert high == pytest.approx(1 - 1.2341e-4, abs=1e-6)
        assert low == -high
    assert patches.suspicion("hinge", scores, real, fake).tolist() == [0.0, -3.0]


def test_a_saturated_sample_gets_less_gradient_before_the_tanh(patches: ModuleType) -> None:
    torch.manual_seed(0)
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    fake = torch.rand(64, 3, 2, 2) - 0.5
    fake[:8] = fake[:8].sign() * 0.999
    blown = torch.arange(64) < 8
    found = patches.judged("latest", discriminator, -fake, fake, blown)["gradient_ratio"]
    # 1 - 0.999² is 0.002, and at least 0.75 in the others.
    assert found["before_tanh"] < 0.01 * found["image"]


def test_parts_that_are_there_are_not_measured_again(patches: ModuleType, tmp_path: Path) -> None:
    head, path = {"settings": {"samples": 2}}, tmp_path / "patches.json"

    def fails() -> dict[str, int]:
        raise AssertionError

    with pytest.raises(AssertionError):
        patches.answer({"a": lambda: {"x": 1}, "b": fails}, head, path)
    result = patches.answer({"a": fails, "b": lambda: {"x": 2}}, head, path)
    assert (result["a"], result["b"]) == ({"x": 1}, {"x": 2})
    assert set(result["seconds"]) == {"a", "b"}
    with pytest.raises(SystemExit, match="other settings"):
        patches.answer({}, {"settings": {"samples": 3}}, path)
