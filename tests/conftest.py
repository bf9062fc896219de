from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nas_gan.networks.searched import Generator, GeneratorConfig, initialize_

# The published generator as its description has it, row by row: name, kernel, dilation.
CONVOLUTIONS = [
    ("cell1.c0", 3, 1), ("cell1.c1", 5, 1), ("cell1.c2", 5, 2), ("cell1.c3", 5, 1),
    ("cell2.c0", 5, 1), ("cell2.c2", 3, 2), ("cell2.c3", 3, 2), ("cell2.c4", 3, 1),
    ("cell3.c0", 5, 1), ("cell3.c1", 3, 2), ("cell3.c2", 5, 2), ("cell3.c3", 5, 1),
    ("cell3.c4", 5, 1),
]  # fmt: skip
State = dict[str, Tensor]


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell without job control starts what runs in the background with Ctrl-C ignored.

    A child inherits that, and the tests that send it would wait for ever.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def tiny_config() -> GeneratorConfig:
    return GeneratorConfig(gf_dim=8, n_classes=0)


@pytest.fixture
def tiny_generator(tiny_config: GeneratorConfig, rng: torch.Generator) -> Generator:
    generator = Generator(tiny_config)
    initialize_(generator, "xavier_uniform", rng)
    return generator.eval()


@pytest.fixture
def published_state(rng: torch.Generator) -> Callable[..., State]:
    """Makes weights with the names and shapes of the published code, of 8 channels."""

    def make(parts: int = 3, width: int = 4, channels: int = 8) -> State:
        part = 120 // parts
        state: State = {}

        def layer(name: str, *shape: int) -> None:
            fan_in = shape[1:] if len(shape) > 1 else shape
            scale = torch.tensor(fan_in).prod().item() ** -0.5
            state[f"module.{name}.weight"] = torch.randn(shape, generator=rng) * scale
            state[f"module.{name}.bias"] = torch.randn(shape[:1], generator=rng) * 0.1

        def beta(site: str) -> None:
            drawn = torch.rand((), generator=rng) * 2 + 0.2
            state[f"module.{site}.activation_fn.beta"] = drawn

        for number in range(1, parts + 1):
            side = width * 2 ** (number - 1)
            layer(f"l{number}", side**2 * channels, part)
        for cell in (1, 2, 3):
            for up in ("up0", "up1"):
                layer(f"cell{cell}.{up}.ups.0.c.1", channels, channels, 1, 1)
                beta(f"cell{cell}.{up}.ups.0.c.0")
            for skip in range(cell - 1):
                layer(f"cell{cell}.skip_in_ops.{skip}", channels, channels, 1, 1)
        for name, kernel, _ in CONVOLUTIONS:
            layer(f"{name}.ops.0.op.1", channels, channels, kernel, kernel)
            beta(f"{name}.ops.0.op.0")
        layer("to_rgb.0", channels)
        state["module.to_rgb.0.running_mean"] = torch.randn(channels, generator=rng)
        state["module.to_rgb.0.running_var"] = torch.rand(channels, generator=rng) + 0.5
        state["module.to_rgb.0.num_batches_tracked"] = torch.tensor(7)
        beta("to_rgb.1")
        layer("to_rgb.2", 3, channels, 3, 3)
        return state

    return make


@pytest.fixture
def published_images() -> Callable[[State, Tensor], Tensor]:
    """The published generator as plain functions over its own state dict.

    Written from the description of the net alone, and with its in-place additions.
    """

    def images(state: State, z: Tensor) -> Tensor:
        s = {name.removeprefix("module."): tensor for name, tensor in state.items()}
        dilations = {name: dilation for name, _, dilation in CONVOLUTIONS}

        def act(x: Tensor, site: str) -> Tensor:
            beta = s[f"{site}.activation_fn.beta"]
            return x * torch.tanh(F.softplus(beta * x) / beta)

        def up(x: Tensor, name: str, mode: str) -> Tensor:
            corners = None if mode == "nearest" else False
            x = F.interpolate(x, scale_factor=2, mode=mode, align_corners=corners)
            op = f"{name}.ups.0.c"
            return F.conv2d(act(x, f"{op}.0"), s[f"{op}.1.weight"], s[f"{op}.1.bias"])

        def conv(x: Tensor, name: str) -> Tensor:
            op, dilation = f"{name}.ops.0.op", dilations[name]
            weight = s[f"{op}.1.weight"]
            padding = dilation * (weight.shape[-1] // 2)
            h = act(x, f"{op}.0")
            return F.conv2d(h, weight, s[f"{op}.1.bias"], padding=padding, dilation=dilation)

        def add_skips(node: Tensor, cell: str, skips: list[Tensor], mode: str) -> None:
            for j, skip in enumerate(skips):
                corners = None if mode == "nearest" else False
                skip = F.interpolate(skip, size=node.shape[2:], mode=mode, align_corners=corners)
                op = f"{cell}.skip_in_ops.{j}"
                node += F.conv2d(skip, s[f"{op}.weight"], s[f"{op}.bias"])

        def input_layer(number: int, shape: tuple[int, ...]) -> Tensor:
            part = s["l1.weight"].shape[1]
            slice_ = z[:, (number - 1) * part : number * part]
            h = F.linear(slice_, s[f"l{number}.weight"], s[f"l{number}.bias"])
            return h.view(-1, *shape)

        channels = s["to_rgb.0.weight"].numel()
        width = int((s["l1.weight"].shape[0] // channels) ** 0.5)

        x = input_layer(1, (channels, width, width))
        n0, n1 = up(x, "cell1.up0", "nearest"), up(x, "cell1.up1", "bilinear")
        n2 = conv(n0, "cell1.c0") + conv(n1, "cell1.c1")
        skip1 = n2
        x = conv(n0, "cell1.c2") + conv(n1, "cell1.c3") + n2

        x = x + input_layer(2, tuple(x.shape[1:]))
        n0, n1 = up(x, "cell2.up0", "bilinear"), up(x, "cell2.up1", "bilinear")
        n2 = conv(n0, "cell2.c0")
        skip2 = n2  # the name is bound before the skips are added in place: both are one tensor
        add_skips(n2, "cell2", [skip1], "bilinear")
        x = conv(n0, "cell2.c2") + conv(n1, "cell2.c3") + conv(n2, "cell2.c4")

        if s["l1.weight"].shape[1] == 40:  # the three-way split of the CIFAR-10 net
            x = x + input_layer(3, tuple(x.shape[1:]))
        n0, n1 = up(x, "cell3.up0", "nearest"), up(x, "cell3.up1", "bilinear")
        n2 = conv(n0, "cell3.c0") + conv(n1, "cell3.c1")
        add_skips(n2, "cell3", [skip1, skip2], "nearest")
        x = conv(n0, "cell3.c2") + conv(n1, "cell3.c3") + conv(n2, "cell3.c4")

        mean, variance = s["to_rgb.0.running_mean"], s["to_rgb.0.running_var"]
        x = F.batch_norm(x, mean, variance, s["to_rgb.0.weight"], s["to_rgb.0.bias"])
        x = F.conv2d(act(x, "to_rgb.1"), s["to_rgb.2.weight"], s["to_rgb.2.bias"], padding=1)
        return torch.tanh(x)

    return images
