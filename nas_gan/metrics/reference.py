"""Where the statistics that a Fréchet distance is measured against come from.

In this order: a file that the user names, statistics shipped with the package or cached earlier,
the data set on disk; or, when asked for, images of the dense generator itself.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nas_gan.data.batches import iterate_uint8
from nas_gan.data.images import Images
from nas_gan.errors import InvalidValueError, MissingDataError
from nas_gan.files import atomic_path
from nas_gan.metrics.features import FeatureExtractor
from nas_gan.metrics.frechet import FeatureStatistics, StreamingStatistics
from nas_gan.metrics.protocol import protocol_of, to_uint8
from nas_gan.metrics.sampling import generate_uint8
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latents_of
from nas_gan.progress import Progress

# Added to the seed of what is measured, so that a reference of generated images has other latents.
REFERENCE_SEED = 0x5EED_0000


def save_statistics(
    path: Path,
    statistics: FeatureStatistics,
    *,
    extractor: str,
    dataset: str,
    resolution: int,
    data_sha256: str,
) -> None:
    """Write statistics as a compressed `.npz` with what they are statistics of.

    The protocol, which is part of the extractor's name, is written as a word of its own as well.
    `sigma_triu` is the upper triangle with the diagonal, row by row, in float32: a quarter of the
    size. On 4,000 images of Fashion-MNIST that changed a distance by 1e-7 of itself.
    """
    upper = statistics.covariance[np.triu_indices(statistics.dim)].astype(np.float32)
    with atomic_path(path) as temporary:
        np.savez_compressed(
            temporary,
            mu=statistics.mean,
            sigma_triu=upper,
            n=0 if statistics.n is None else statistics.n,
            extractor=extractor,
            protocol=protocol_of(extractor).name,
            dataset=dataset,
            resolution=resolution,
            data_sha256=data_sha256,
        )


def load_statistics(
    path: Path, extractor: FeatureExtractor | None = None, data_sha256: str | None = None
) -> FeatureStatistics:
    """Read statistics, as pytorch-fid writes them (`mu`, `sigma`) or as `save_statistics` does.

    Raises:
        MissingDataError: there is no such file.
        InvalidValueError: it holds no statistics, or those of another extractor or protocol than
            the one given, or of other data than `data_sha256`.
    """
    try:
        # Opened here: where numpy finds the file broken it leaves its own handle open.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            content = {key: file[key] for key in file.files}
    except FileNotFoundError as error:
        raise MissingDataError(f"{path}: no such file of reference statistics") from error
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise InvalidValueError(f"{path}: not an .npz file of statistics ({error})") from error
    if "mu" not in content or not content.keys() & {"sigma", "sigma_triu"}:
        found = ", ".join(sorted(content)) or "nothing"
        raise InvalidValueError(
            f"{path}: reference statistics hold mu and sigma (as pytorch-fid writes them); "
            f"found {found}"
        )
    mean = content["mu"].astype(np.float64)
    if "sigma" in content:
        covariance = content["sigma"].astype(np.float64)
    else:
        upper = np.triu_indices(mean.size)
        if content["sigma_triu"].shape != upper[0].shape:
            raise InvalidValueError(f"{path}: mu and sigma_triu do not fit each other")
        covariance = np.zeros((mean.size, mean.size))
        covariance[upper] = content["sigma_triu"]
        covariance = covariance + np.triu(covariance, 1).T
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise InvalidValueError(f"{path}: the statistics hold a NaN or an infinity")
    _check_origin(path, content, mean.size, extractor, data_sha256)
    n = int(content["n"]) if "n" in content else 0
    try:
        return FeatureStatistics(mean, covariance, n or None)
    except InvalidValueError as error:
        raise InvalidValueError(f"{path}: {error}") from error


def _check_origin(
    path: Path,
    content: dict[str, np.ndarray],
    dim: int,
    extractor: FeatureExtractor | None,
    data_sha256: str | None,
) -> None:
    if extractor is not None and dim != extractor.dim:
        raise InvalidValueError(
            f"{path}: statistics of {dim} features do not fit {extractor.name}, which has "
            f"{extractor.dim}; use the features that they were made with"
        )
    made_by = str(content.get("extractor", ""))
    if extractor is not None:
        # Files of pytorch-fid name neither; what it does is the legacy protocol.
        named = str(content.get("protocol", ""))
        found = named or protocol_of(made_by).name
        wanted = protocol_of(extractor.name).name
        if found != wanted:
            raise InvalidValueError(
                f"{path}: statistics of the {found} protocol"
                f"{'' if named or made_by else ' (the file names none, as those of pytorch-fid)'}, "
                f"but the features follow {wanted}; use protocol {found}, or a reference made "
                f"under {wanted}"
            )
    if extractor is not None and made_by not in ("", extractor.name):
        raise InvalidValueError(
            f"{path}: made with {made_by}, but the features are {extractor.name}'s"
        )
    if data_sha256 is not None and str(content.get("data_sha256", "")) != data_sha256:
        raise InvalidValueError(f"{path}: made of other data; remove it to have it made again")


def statistics_name(dataset: str, resolution: int, extractor: str) -> str:
    """File name of shipped and cached statistics: `fashion_mnist_32_efficientnet-lite0-96.npz`."""
    return f"{dataset}_{resolution}_{extractor}.npz".replace("@", "-").replace(":", "-")


def statistics_of_images(
    images: Images, extractor: FeatureExtractor, progress: Progress | None = None
) -> FeatureStatistics:
    """Statistics of all images of a data set, a batch at a time; `progress` makes a bar."""
    streaming = StreamingStatistics(extractor.dim)
    with progress("reference", len(images)) if progress else nullcontext() as advance:
        for batch in iterate_uint8(images):
            streaming.update(extractor(batch))
            if advance is not None:
                advance(len(batch))
    return streaming.result()


class GeneratedImages:
    """What a generator makes of latents `(n, latent_dim)`, as a data set."""

    digest = ""

    def __init__(
        self,
        name: str,
        generator: nn.Module,
        latents: Tensor,
        *,
        batch_size: int = 64,
        device: str = "cpu",
        quantize: Callable[[Tensor], Tensor] = to_uint8,
    ) -> None:
        self.name, self.generator, self.latents = name, generator, latents
        self.batch_size, self.device, self.quantize = batch_size, device, quantize

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, indices: Tensor) -> Tensor:
        batches = generate_uint8(
            self.generator,
            self.latents[indices],
            batch_size=self.batch_size,
            device=self.device,
            quantize=self.quantize,
        )
        return torch.cat(list(batches))


def dense_images(
    generator: nn.Module,
    n: int,
    seed: int,
    *,
    batch_size: int = 64,
    device: str = "cpu",
    quantize: Callable[[Tensor], Tensor] = to_uint8,
) -> GeneratedImages:
    """Images of the dense generator, to be a reference where there is no data.

    The latents are not those of the bank of `seed` that candidates are measured on: against its own
    images the dense generator would score 0 and any other the bias of n.
    """
    latents = latents_of(interface_of(generator), n, seed + REFERENCE_SEED)
    return GeneratedImages(
        "the dense generator",
        generator,
        latents,
        batch_size=batch_size,
        device=device,
        quantize=quantize,
    )


def find_reference(
    choice: str,
    extractor: FeatureExtractor,
    *,
    dataset: str | None,
    resolution: int,
    data: Callable[[], Images] | None = None,
    dense: Callable[[], Images] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> tuple[FeatureStatistics, str]:
    """Reference statistics, and in words where they are from.

    `choice` is `auto`, `dense` or the path of a file. `auto` takes the statistics shipped for
    (dataset, resolution, extractor) and else those of the data set that `data` loads, which are
    kept in the folder `cache`. `dense` gives the images behind the choice of that name:
    see `dense_images`. `progress` makes a bar where images must be gone through.

    Raises:
        MissingDataError: there is nothing to compare with; the message says what was looked for.
        InvalidValueError: a file holds statistics that do not fit the extractor.
    """
    if choice == "dense":
        if dense is None:
            raise InvalidValueError("a reference of dense images needs the dense generator")
        images = dense()
        statistics = statistics_of_images(images, extractor, progress)
        return statistics, f"{len(images)} images of {images.name}"
    if choice != "auto":
        return load_statistics(Path(choice), extractor), choice
    if dataset is None:
        raise MissingDataError(
            "auto has nothing to compare with, since the checkpoint names no data set; use an .npz "
            "file of statistics, or dense",
            setting="reference",
        )
    name = statistics_name(dataset, resolution, extractor.name)
    shipped = resources.files("nas_gan.zoo") / name
    if shipped.is_file():
        with resources.as_file(shipped) as path:
            return load_statistics(path, extractor), f"shipped statistics {name}"
    missing = "no data set was given"
    if data is not None:
        try:
            images = data()
        except MissingDataError as error:
            missing = str(error)
        else:
            source = f"{len(images)} images of {images.name}"
            return _statistics_of_data(images, extractor, resolution, name, cache, progress), source
    raise MissingDataError(
        f"auto finds no statistics of {dataset} at {resolution} pixels with {extractor.name}: "
        f"none are shipped, and {missing}; use an .npz file of statistics, or dense",
        setting="reference",
    )


def _statistics_of_data(
    images: Images,
    extractor: FeatureExtractor,
    resolution: int,
    name: str,
    cache: Path | None,
    progress: Progress | None,
) -> FeatureStatistics:
    cached = None if cache is None else cache / name
    if cached is not None and cached.is_file():
        try:
            return load_statistics(cached, extractor, images.digest)
        except InvalidValueError:
            pass  # other data under the same name, or a broken file: made again and written over
    statistics = statistics_of_images(images, extractor, progress)
    if cached is not None:
        save_statistics(
            cached,
            statistics,
            extractor=extractor.name,
            dataset=images.name,
            resolution=resolution,
            data_sha256=images.digest,
        )
    return statistics


def cache_dir() -> Path:
    """Where statistics made of data sets are kept: `ard-gan` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ard-gan"
