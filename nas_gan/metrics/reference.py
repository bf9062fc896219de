"""The reference statistics of a Fréchet distance.

They come from a file or a folder of images that the user names, from the package, from the cache or
from the data set, in this order; or, if asked for, from images of the dense generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nas_gan.cache import cache_dir as cache_dir  # with the references, for others
from nas_gan.cache import caching, is_cached
from nas_gan.data.batches import iterate_uint8
from nas_gan.data.images import Images
from nas_gan.errors import InvalidValueError, MissingDataError
from nas_gan.files import atomic_path
from nas_gan.metrics.features import FeatureExtractor
from nas_gan.metrics.frechet import FeatureStatistics, StreamingStatistics, statistics_of
from nas_gan.metrics.given_reference import (
    HOLDS,
    GivenReference,
    features_of_images,
    load_features,
    open_given,
)
from nas_gan.metrics.protocol import protocol_of, to_uint8
from nas_gan.metrics.sampling import generate_uint8
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latents_of
from nas_gan.npz import open_npz
from nas_gan.progress import Progress, no_progress

# Added to the seed of what is measured, so that a reference of generated images has other latents.
REFERENCE_SEED = 0x5EED_0000
# File name of cached statistics of the dense generator's images.
DENSE_STATISTICS = "dense_reference.npz"


def save_statistics(
    path: Path,
    statistics: FeatureStatistics,
    *,
    extractor: str,
    dataset: str,
    resolution: int,
    data_sha256: str,
) -> None:
    """Write statistics as a compressed `.npz`, together with their origin.

    The protocol, which is part of the extractor's name, also has an entry of its own.
    `sigma_triu` is the upper triangle with the diagonal, row by row, in float32: a quarter of the
    size. On 4,000 images of Fashion-MNIST this changed a distance by 1e-7 of its value.

    Args:
        path: the `.npz` to write.
        statistics: mean and covariance.
        extractor: the name of the feature space, with its protocol.
        dataset: the name of the data set.
        resolution: width of its images in pixels.
        data_sha256: digest of the images.
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
    """Read statistics as written by pytorch-fid (`mu`, `sigma`) or by `save_statistics`.

    Args:
        path: the file.
        extractor: refuse statistics of another feature space, if not None.
        data_sha256: refuse statistics of other data, if not None.

    Returns:
        Mean and covariance, in float64.

    Raises:
        MissingDataError: there is no such file.
        InvalidValueError: it holds no statistics, or those of nothing: not real, not symmetric, not
            positive, or of a single image; or they are refused.
    """
    with open_npz(path, "reference statistics") as file:
        names = set(file.files)
        if "mu" not in names or not names & {"sigma", "sigma_triu"}:
            found = ", ".join(sorted(names)) or "nothing"
            raise InvalidValueError(
                f"{path}: reference statistics hold mu and sigma (as pytorch-fid writes them); "
                f"found {found}"
            )
        mean = _real(file["mu"], f"{path}: mu")
        if "sigma" in names:
            covariance = _real(file["sigma"], f"{path}: sigma")
        else:
            covariance = _unpacked(_real(file["sigma_triu"], f"{path}: sigma_triu"), mean, path)
        origin = {name: _text(file[name], f"{path}: {name}") for name in _ORIGIN & names}
        n = _n_images(file["n"], path) if "n" in names else None
    _check_origin(path, origin, mean.size, extractor, data_sha256)
    try:
        statistics = FeatureStatistics(mean, covariance, n)
        check_covariance(statistics.covariance)
    except InvalidValueError as error:
        raise InvalidValueError(f"{path}: {error}") from error
    return statistics


_ORIGIN = {"extractor", "protocol", "data_sha256"}
# How far a covariance that was stored in float32 may be from symmetric and positive, relative to
# its largest variance.
_ROUNDING = 1e-4


def _real(array: npt.NDArray[Any], where: str) -> npt.NDArray[np.float64]:
    if array.dtype.kind not in "fiu":
        raise InvalidValueError(f"{where} is of {array.dtype}; statistics are real numbers")
    if not np.isfinite(array).all():
        raise InvalidValueError(f"{where}: the statistics hold a NaN or an infinity")
    return array.astype(np.float64)


def _unpacked(
    triangle: npt.NDArray[np.float64], mean: npt.NDArray[np.float64], path: Path
) -> npt.NDArray[np.float64]:
    """The symmetric matrix of an upper triangle."""
    d = mean.size
    if triangle.shape != (d * (d + 1) // 2,):
        raise InvalidValueError(f"{path}: mu and sigma_triu do not fit each other")
    covariance = np.zeros((d, d))
    covariance[np.triu_indices(d)] = triangle
    return covariance + np.triu(covariance, 1).T


def _text(array: npt.NDArray[Any], where: str) -> str:
    if array.dtype.kind != "U" or array.ndim:
        raise InvalidValueError(f"{where} is not a text")
    return str(array)


def _n_images(array: npt.NDArray[Any], path: Path) -> int | None:
    """The number of images, of which 0 stands for one that is not known."""
    if array.dtype.kind not in "iu" or array.ndim or int(array) < 0 or int(array) == 1:
        shown = str(array)[:40]
        raise InvalidValueError(f"{path}: n is {shown}; a covariance is one of at least 2 images")
    return int(array) or None


def check_covariance(covariance: npt.NDArray[np.float64]) -> None:
    """Check that a matrix is the covariance of something, up to rounding.

    Args:
        covariance: `(d, d)`, finite.

    Raises:
        InvalidValueError: it is not symmetric, or has a negative eigenvalue.
    """
    variances = np.diagonal(covariance)
    allowed = _ROUNDING * float(variances.max(initial=0.0))
    if float(np.abs(covariance - covariance.T).max(initial=0.0)) > allowed:
        raise InvalidValueError("sigma is not symmetric, so it is no covariance; make it again")
    positive = not covariance.any()
    if allowed > 0:
        # A factor exists exactly if no eigenvalue is below what is added here.
        shifted = (covariance + covariance.T) / 2 + allowed * np.eye(len(covariance))
        with suppress(np.linalg.LinAlgError):
            np.linalg.cholesky(shifted)
            positive = True
    if not positive:
        raise InvalidValueError(
            "sigma has a negative eigenvalue, so it is no covariance; make it again"
        )


def _check_origin(
    path: Path,
    content: Mapping[str, str],
    dim: int,
    extractor: FeatureExtractor | None,
    data_sha256: str | None,
) -> None:
    if extractor is not None and dim != extractor.dim:
        raise InvalidValueError(
            f"{path}: statistics of {dim} features do not fit {extractor.name}, which has "
            f"{extractor.dim}; use the features that they were made with"
        )
    made_by = content.get("extractor", "")
    if extractor is not None:
        # Files of pytorch-fid name neither; they follow the legacy protocol.
        named = content.get("protocol", "")
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
    if data_sha256 is not None and content.get("data_sha256", "") != data_sha256:
        raise InvalidValueError(f"{path}: made from other data; remove it, and it is made again")


def statistics_name(dataset: str, resolution: int, extractor: str) -> str:
    """File name of shipped and cached statistics: `fashion_mnist_32_efficientnet-lite0-96.npz`."""
    return f"{dataset}_{resolution}_{extractor}.npz".replace("@", "-").replace(":", "-")


def statistics_of_images(
    images: Images, extractor: FeatureExtractor, progress: Progress | None = None
) -> FeatureStatistics:
    """Statistics of all images of a data set, a batch at a time; `progress` shows a bar."""
    streaming = StreamingStatistics(extractor.dim)
    with progress("reference", len(images)) if progress else nullcontext() as advance:
        for batch in iterate_uint8(images):
            streaming.update(extractor(batch))
            if advance is not None:
                advance(len(batch))
    return streaming.result()


class GeneratedImages:
    """The images that a generator draws from latents `(n, input_width)`, as a data set."""

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

    @property
    def digest(self) -> str:
        """Identifies the images: the weights, the latents and how the network is called."""
        digest = hashlib.sha256(repr(interface_of(self.generator).to_dict()).encode())
        digest.update(getattr(self.quantize, "__qualname__", "").encode())
        for tensor in (*self.generator.state_dict().values(), self.latents):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

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
    """Images of the dense generator, as a reference if there is no data.

    Their latents are not those of `seed`, on which candidates are measured: compared with the same
    images, the dense generator would score 0 and candidates would keep the bias of a finite n.
    """
    latents = latents_of(interface_of(generator), n, seed + REFERENCE_SEED, "reference")
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
    data_sha256: str | None,
    resolution: int,
    data: Callable[[], Images] | None = None,
    dense: Callable[[], Images] | None = None,
    cache: Path | None = None,
    dense_cache: Path | None = None,
    progress: Progress | None = None,
) -> tuple[FeatureStatistics, str]:
    """Find the statistics that generators are compared with.

    Args:
        choice: `auto`, `dense` or the path of a file or folder. `auto` takes the shipped statistics
            of (dataset, resolution, extractor) or, if there are none, those of the data set.
        extractor: the network whose features are compared.
        dataset: the name of the data set, if known.
        data_sha256: the digest of its images as the generator was trained on them, if known.
            Shipped statistics of others, such as those on another background, are passed over.
        resolution: width of the images in pixels.
        data: loads the data set for `auto`.
        dense: returns the images for `dense`: see `dense_images`.
        cache: folder in which statistics of data sets are kept, if not None.
        dense_cache: folder in which those of dense images are kept, if not None.
        progress: shows a bar while features are extracted.

    Returns:
        The statistics, and a phrase that says where they come from.

    Raises:
        MissingDataError: there is nothing to compare with; the message says what was looked for.
        InvalidValueError: a file holds statistics that do not fit the extractor.
    """
    if choice == "dense":
        if dense is None:
            raise InvalidValueError("a reference of dense images needs the dense generator")
        images = dense()
        statistics = _statistics_of_data(
            images, extractor, resolution, DENSE_STATISTICS, dense_cache, progress
        )
        return statistics, f"{len(images)} images of {images.name}"
    if choice != "auto":
        return given_statistics(open_given(choice), extractor, cache, progress or no_progress)
    if dataset is None:
        raise MissingDataError(
            "auto has nothing to compare with, since the checkpoint names no data set; use "
            f"{HOLDS}, or dense",
            setting="reference",
        )
    name = statistics_name(dataset, resolution, extractor.name)
    shipped, none = resources.files("nas_gan.zoo") / name, "none are shipped"
    if shipped.is_file():
        with resources.as_file(shipped) as path:
            if data_sha256 in (None, _data_of(path)):
                return load_statistics(path, extractor), f"shipped statistics {name}"
        none = "the shipped ones are of other images than it was trained on"
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
        f"{none}, and {missing}; use {HOLDS}, or dense",
        setting="reference",
    )


def _data_of(path: Path) -> str:
    """The digest of the images that shipped statistics are of."""
    with open_npz(path, "reference statistics") as file:
        return _text(file["data_sha256"], f"{path}: data_sha256")


def _as_stored(statistics: FeatureStatistics) -> FeatureStatistics:
    """What a later run reads from the cache: a covariance that has been through float32."""
    covariance = statistics.covariance.astype(np.float32).astype(np.float64)
    return FeatureStatistics(statistics.mean, covariance, statistics.n)


def _statistics_of_data(
    images: Images,
    extractor: FeatureExtractor,
    resolution: int,
    name: str,
    cache: Path | None,
    progress: Progress | None,
) -> FeatureStatistics:
    return _remembered(
        # Two data sets of one name, as any two folders are, do not replace each other.
        None if cache is None else cache / f"{Path(name).stem}_{images.digest[:16]}.npz",
        lambda: statistics_of_images(images, extractor, progress),
        extractor,
        {"dataset": images.name, "resolution": resolution, "data_sha256": images.digest},
    )


def given_statistics(
    given: GivenReference,
    extractor: FeatureExtractor,
    cache: Path | None = None,
    progress: Progress = no_progress,
) -> tuple[FeatureStatistics, str]:
    """The statistics at a path, or those of the features or images there.

    Args:
        given: what lies at a path.
        extractor: the network whose features are compared, each image at its own size.
        cache: folder in which statistics of images are kept, if not None.
        progress: shows a bar while features are extracted.

    Returns:
        The statistics, and a phrase that says where they come from.

    Raises:
        MissingDataError: none of the images can be read.
        InvalidValueError: it holds what does not fit the extractor.
    """
    if "features" in given.arrays and "mu" not in given.arrays:
        features = load_features(given.path, extractor)
        return statistics_of(features), f"features of {len(features)} images in {given.name}"
    if given.images is None:
        return load_statistics(given.path, extractor), given.name

    def looked_at() -> FeatureStatistics:
        streaming = StreamingStatistics(extractor.dim)
        for features in features_of_images(given, extractor, progress):
            streaming.update(features)
        return streaming.result()

    name, digest = statistics_name("images", 0, extractor.name), given.digest
    statistics = _remembered(
        None if cache is None else cache / f"{Path(name).stem}_{digest[:16]}.npz",
        looked_at,
        extractor,
        {"dataset": given.path.name, "resolution": 0, "data_sha256": digest},
    )
    return statistics, f"{statistics.n} images of {given.name}"


def _remembered(
    cached: Path | None,
    make: Callable[[], FeatureStatistics],
    extractor: FeatureExtractor,
    origin: Mapping[str, Any],
) -> FeatureStatistics:
    """What `make` returns, or what is cached of it; `origin` is written down with it."""
    if cached is not None and is_cached(cached):
        try:
            return load_statistics(cached, extractor, origin["data_sha256"])
        except (InvalidValueError, MissingDataError):
            pass  # a damaged file: made again and replaced
    statistics = _as_stored(make())
    if cached is not None:
        with caching(cached):
            save_statistics(cached, statistics, extractor=extractor.name, **origin)
    return statistics
