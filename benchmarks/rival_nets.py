"""The networks that rivals make of a generator, each of about so many parameters, before recovery.

Torch-Pruning, tltorch and AIMET do the work themselves; here they are told what to do. Each is
imported where it is used, because none of them belongs to the project.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import tensorly
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ard.assembly.statistics import capture_inputs
from ard.factorization.backend import torch_backend
from nas_gan.errors import InvalidValueError
from nas_gan.networks.searched import Generator, initialize_
from nas_gan.networks.structure import replace_modules

IMPORTANCES = ("magnitude", "LAMP", "FPGM", "Taylor", "Hessian")
N_PROBES = 8  # random projections of the images behind the Hessian
# Channels go in many small steps, until enough are gone.
PRUNING_STEPS, MOST_PRUNED = 30, 0.95
Loss = Callable[[Tensor], Tensor]  # of images


def n_params(network: nn.Module) -> int:
    """The parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


# -- a narrower student


def narrower(dense: nn.Module, target: int, seed: int) -> nn.Module:
    """An untrained network of the same architecture with about `target` parameters.

    Raises:
        InvalidValueError: the dense network has no width that could be changed.
    """
    if not isinstance(dense, Generator):
        raise InvalidValueError(
            f"a narrower student needs a searched generator, whose width is a setting; this is a "
            f"{type(dense).__name__}"
        )
    widths = range(1, dense.config.gf_dim + 1)

    def sized(width: int) -> int:
        with torch.device("meta"):
            return n_params(Generator(replace(dense.config, gf_dim=width)))

    width = min(widths, key=lambda width: abs(sized(width) - target))
    student = Generator(replace(dense.config, gf_dim=width))
    initialize_(student, "xavier_uniform", torch.Generator().manual_seed(seed))
    return student.eval()


# -- structured pruning by Torch-Pruning


class WithoutViews(nn.Module):
    """A searched generator whose linear layers give maps, so that channels can be followed.

    A pruner cannot see through `Linear -> view` which features are one channel.
    """

    def __init__(self, dense: Generator, seeds: Sequence[nn.Module]) -> None:
        super().__init__()
        self.latent_dim, self.n_classes = dense.latent_dim, 0
        self.image_shape, self.part = dense.image_shape, dense.part
        self.seeds = nn.ModuleList(seeds)
        self.cells = nn.ModuleList(copy.deepcopy([dense.cell1, dense.cell2, dense.cell3]))
        self.to_rgb = nn.Sequential(*copy.deepcopy(list(dense.to_rgb)))

    def forward(self, z: Tensor) -> Tensor:
        h: Tensor | None = None
        skips: list[Tensor] = []
        for number, cell in enumerate(self.cells):
            if number < len(self.seeds):
                seed = self.seeds[number](z[:, number * self.part : (number + 1) * self.part])
                h = seed if h is None else h + seed
            skip, h = cell(h, tuple(skips))
            skips.append(skip)
        image: Tensor = self.to_rgb(h)
        return image


class TransposedSeed(nn.Module):
    """`Linear -> view` as a transposed convolution of a 1x1 map; `(n, part)` to `(n, c, w, w)`.

    The bias differs from place to place, so it is the kernel of a constant channel.
    """

    def __init__(self, linear: nn.Linear, width: int) -> None:
        super().__init__()
        channels = linear.out_features // width**2
        assert linear.bias is not None
        rows = torch.cat([linear.weight.detach().T, linear.bias.detach()[None]])
        self.conv = nn.ConvTranspose2d(len(rows), channels, width, bias=False)
        self.conv.weight.data = rows.reshape(-1, channels, width, width).clone()

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.conv(F.pad(z, (0, 1), value=1.0)[:, :, None, None])
        return images


class LinearSeed(nn.Module):
    """What a `TransposedSeed` computes, as the faster `Linear -> view`."""

    def __init__(self, seed: TransposedSeed) -> None:
        super().__init__()
        rows = seed.conv.weight.detach()  # (part + 1, c, w, w)
        self.shape = rows.shape[1:]
        self.linear = nn.Linear(len(rows) - 1, self.shape.numel())
        self.linear.weight.data = rows[:-1].flatten(1).T.contiguous()
        self.linear.bias.data = rows[-1].flatten().clone()

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.linear(z).view(-1, *self.shape)
        return images


def without_views(dense: nn.Module) -> nn.Module:
    """A copy in which a pruner can follow every channel.

    Raises:
        InvalidValueError: it is conditional, or has linear layers and is not a searched generator.
    """
    if isinstance(dense, Generator):
        if dense.n_classes:
            raise InvalidValueError("conditional generators are not pruned here")
        layers = [dense.l1, dense.l2, *([dense.l3] if dense.config.latent_parts == 3 else [])]
        width = dense.config.bottom_width
        return WithoutViews(
            dense, [TransposedSeed(layer, width << i) for i, layer in enumerate(layers)]
        ).eval()
    if any(isinstance(module, nn.Linear) for module in dense.modules()):
        raise InvalidValueError(
            f"a pruner cannot follow the channels of a {type(dense).__name__} through its linear "
            "layers"
        )
    return copy.deepcopy(dense)


def with_linear(network: nn.Module) -> nn.Module:
    """A copy with the linear layers back, for the recovery and for deployment."""
    seeds = {n: LinearSeed(m) for n, m in network.named_modules() if isinstance(m, TransposedSeed)}
    return replace_modules(network, seeds)


@dataclass(frozen=True)
class Pruning:
    """How channels are ranked: by which importance, and among all layers or within each."""

    importance: str
    among_all: bool

    def __str__(self) -> str:
        return f"{self.importance}, {'among all layers' if self.among_all else 'layer by layer'}"


def prunings() -> Iterator[Pruning]:
    """All that are tried."""
    for importance in IMPORTANCES:
        yield Pruning(importance, True)
        yield Pruning(importance, False)


def gradients(
    network: nn.Module, latents: Tensor, importance: str, loss: Loss
) -> dict[str, Tensor]:
    """What an importance wants to find as gradients of the weights, by name.

    Taylor wants the gradient of a loss. The Hessian is that of the squared error of the images at
    the network itself: the mean square of gradients of random projections. For both the loss of
    the images towards the dense generator's would be no use, because it is at its minimum.
    """
    if importance not in ("Taylor", "Hessian"):
        return {}
    network = copy.deepcopy(network).eval().requires_grad_(True)
    found = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    signs = torch.Generator().manual_seed(0)
    for _ in range(N_PROBES if importance == "Hessian" else 1):
        network.zero_grad()
        images = network(latents)
        if importance == "Hessian":
            drawn = torch.randint(2, images.shape, generator=signs).to(images) * 2 - 1
            (images * drawn).sum().backward()
        else:
            loss(images).backward()
        for name, p in network.named_parameters():
            if p.grad is not None:
                found[name] += p.grad.square() if importance == "Hessian" else p.grad
    return found


def pruned(network: nn.Module, target: int, how: Pruning, latents: Tensor, loss: Loss) -> nn.Module:
    """A copy with fewer channels, of at most `target` parameters; nothing is trained.

    Args:
        network: has no views between its layers; see `without_views`.
        target: parameters to be left.
        how: the ranking of the channels.
        latents: `(n, latent_dim)` for gradients.
        loss: a scalar of images, for the importance that needs a loss.
    """
    import torch_pruning

    known = gradients(network, latents, how.importance, loss)
    network = copy.deepcopy(network).requires_grad_(True)
    for name, parameter in network.named_parameters():
        parameter.grad = known[name] if known else None
    of = torch_pruning.importance
    importance = {
        "magnitude": of.GroupMagnitudeImportance,
        "LAMP": of.LAMPImportance,
        "FPGM": of.FPGMImportance,
        "Taylor": of.GroupTaylorImportance,
        "Hessian": of.GroupHessianImportance,
    }[how.importance]()
    layers = [n for n, m in network.named_modules() if isinstance(m, nn.modules.conv._ConvNd)]
    last = [*capture_inputs(network, latents[:2], layers)][-1]
    with warnings.catch_warnings():
        # Of scalars in the activations, which have no channel.
        warnings.simplefilter("ignore", UserWarning)
        pruner = torch_pruning.BasePruner(
            network,
            latents[:2],
            importance,
            global_pruning=how.among_all,
            pruning_ratio=MOST_PRUNED,
            max_pruning_ratio=MOST_PRUNED,
            iterative_steps=PRUNING_STEPS,
            ignored_layers=[network.get_submodule(last)],
        )
    for _ in range(PRUNING_STEPS):
        if n_params(network) <= target:
            break
        pruner.step()
    network.zero_grad()
    return network.requires_grad_(False)


# -- uniform CP by tltorch


def uniform_cp(dense: nn.Module, target: int) -> nn.Module:
    """A copy in which tltorch's CP of every kernel and matrix keeps the same share of its weights.

    Convolutions in groups stay dense.
    """
    kinds = (nn.Conv2d, nn.Linear)
    layers = {
        name: module
        for name, module in dense.named_modules()
        if isinstance(module, kinds) and not (isinstance(module, nn.Conv2d) and module.groups > 1)
    }

    def ranks_at(share: float) -> dict[str, int]:
        found = {n: int(share * m.weight.numel() / sum(m.weight.shape)) for n, m in layers.items()}
        return {n: max(1, rank) for n, rank in found.items()}

    def size_at(share: float) -> int:
        shapes = {name: layers[name].weight.shape for name in layers}
        saved = sum(
            shapes[name].numel() - rank * (sum(shapes[name]) + 1)
            for name, rank in ranks_at(share).items()
        )
        return n_params(dense) - saved

    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if size_at(middle) < target else (low, middle)
    ranks = ranks_at(low)
    return replace_modules(dense, {name: _cp(layers[name], ranks[name]) for name in layers}).eval()


class WithTorch(nn.Module):
    """A layer of tltorch, which needs tensorly's torch backend whenever it runs."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        with torch_backend():
            y: Tensor = self.layer(x)
        return y


def _cp(layer: nn.Module, rank: int) -> nn.Module:
    tltorch = _tltorch()
    with torch_backend(), warnings.catch_warnings():
        # Of ranks above the sides of an unfolding, from which tensorly starts.
        warnings.simplefilter("ignore", UserWarning)
        if isinstance(layer, nn.Conv2d):
            return WithTorch(
                tltorch.FactorizedConv.from_conv(
                    layer, rank=rank, implementation="factorized", factorization="CP"
                )
            )
        assert isinstance(layer, nn.Linear)
        return WithTorch(
            tltorch.FactorizedLinear.from_linear(
                layer,
                rank=rank,
                implementation="factorized",
                factorization="CP",
                auto_tensorize=False,
                in_tensorized_features=(layer.in_features,),
                out_tensorized_features=(layer.out_features,),
            )
        )


def _tltorch() -> Any:
    """The package; on import it sets tensorly's backend for the whole process, which is undone."""
    before = tensorly.get_backend()
    import tltorch

    tensorly.set_backend(before)
    return tltorch


# -- AIMET


def aimet_svd(
    dense: nn.Module,
    share: float,
    error: Callable[[nn.Module], float],
    folder: Path,
    candidates: int,
) -> nn.Module:
    """A copy compressed by AIMET's greedy selection to about a share of its parameters.

    Spatial SVD takes the convolutions, and weight SVD what spatial SVD refuses: linear layers and
    dilated kernels. Each gets the ratio that leaves `share` of its own layers.

    Args:
        dense: the network.
        share: of the parameters, to be left.
        error: of a network; AIMET is told its negative as the accuracy.
        folder: keeps AIMET's scores of single layers, which it uses again for another share.
        candidates: AIMET's number of ratios to try for each layer, and one more.
    """
    from aimet_torch.common.defs import (
        CompressionScheme,
        CostMetric,
        GreedySelectionParameters,
        RankSelectScheme,
    )
    from aimet_torch.compress import ModelCompressor
    from aimet_torch.defs import SpatialSvdParameters, WeightSvdParameters

    network = copy.deepcopy(dense)
    total = sum(m.weight.numel() for m in network.modules() if isinstance(m, _AIMET_KINDS))
    for scheme in (CompressionScheme.weight_svd, CompressionScheme.spatial_svd):
        spatial = scheme == CompressionScheme.spatial_svd
        chosen = [
            m for m in network.modules() if isinstance(m, _AIMET_KINDS) if _spatial(m) == spatial
        ]
        others = [m for m in network.modules() if isinstance(m, _AIMET_KINDS) if m not in chosen]
        own, rest = (sum(m.weight.numel() for m in ms) for ms in (chosen, others))
        if not own:
            continue
        scores = folder / f"{scheme.name}-{candidates}.pkl"
        greedy = GreedySelectionParameters(
            target_comp_ratio=(rest + share * own) / (rest + own),
            num_comp_ratio_candidates=candidates,
            saved_eval_scores_dict=str(scores) if scores.exists() else None,
        )
        if spatial:
            parameters: Any = SpatialSvdParameters(
                SpatialSvdParameters.Mode.auto,
                SpatialSvdParameters.AutoModeParams(greedy, modules_to_ignore=others),
            )
        else:
            parameters = WeightSvdParameters(
                WeightSvdParameters.Mode.auto,
                WeightSvdParameters.AutoModeParams(
                    RankSelectScheme.greedy, greedy, modules_to_ignore=others
                ),
            )
        with _inside(folder):  # it writes into the current folder
            network, _ = ModelCompressor.compress_model(
                network,
                lambda net, iterations, use_cuda: -error(net),
                1,
                (1, cast(int, dense.latent_dim)),
                scheme,
                CostMetric.memory,
                parameters,
            )
            written = folder / "data" / "greedy_selection_eval_scores_dict.pkl"
            if not scores.exists():
                written.rename(scores)
    assert total
    return network.eval()


_AIMET_KINDS = (nn.Conv2d, nn.Linear)


def _spatial(layer: nn.Module) -> bool:
    """Whether AIMET's spatial SVD takes this layer: no dilation, and a kernel to separate."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.kernel_size != (1, 1)
    )


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
