"""The evaluation of a subject: its images, collected in one pass, against those of a reference."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nas_gan.data.images import Images, recorded_background, recorded_fit
from nas_gan.data.loading import load_dataset
from nas_gan.errors import InvalidValueError, MissingDataError
from nas_gan.generators import GeneratorOptions
from nas_gan.metrics.classifier import class_accuracy, find_classifier
from nas_gan.metrics.collecting import Collected, Wanted, choose_rows, collect
from nas_gan.metrics.doubts import doubts
from nas_gan.metrics.features import ClassExtractor
from nas_gan.metrics.frechet import (
    DeltaFid,
    FeatureStatistics,
    FrechetReference,
    PairedFid,
    statistics_of,
)
from nas_gan.metrics.given_reference import NAMED, open_given
from nas_gan.metrics.protocol import LEGACY, FidProtocol
from nas_gan.metrics.reference import (
    REFERENCE_SEED,
    cache_dir,
    dense_images,
    find_reference,
    given_statistics,
    save_statistics,
)
from nas_gan.metrics.report import EvaluationReport
from nas_gan.metrics.scoring import (
    NEED_REFERENCE,
    NEED_REFERENCE_IMAGES,
    MetricName,
    score,
    wanted_of,
)
from nas_gan.metrics.sources import DatasetSource, GeneratedSource, ImageSource
from nas_gan.metrics.subjects import Drawing, Subject, check_pair, open_subject
from nas_gan.networks.interface import interface_of
from nas_gan.networks.memory import SHOWN_ROWS, fitting_rows
from nas_gan.progress import Progress, no_progress
from nas_gan.remote.fetching import local_copy
from nas_gan.settings import check_at_least
from nas_gan.workers.executors import Executor

LIMIT = "in the limit of many images"
NOT_COMPARABLE = "another feature space than published FIDs: compare within this extractor only"


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is measured, and how.

    Attributes:
        metrics: the scores to compute.
        samples: images that a generator draws; folders and files are measured whole.
        seed: seed of the latents and of random subsets.
        protocol: how pixels become bytes and the input of the extractor.
        reference: `auto`, `dense`, or the path of statistics, images or a checkpoint.
        kept: images per side whose features (KID, precision and recall) or pixels (Parzen) are
            kept: a random subset.
        data_root: folder of the data set, if it is not in its usual place.
        device: where generators run.
        batch_size: images per batch.
        options: how a network that its checkpoint does not describe is built and called.

    Raises:
        InvalidValueError: a number is too small.
    """

    metrics: tuple[MetricName, ...] = ("fid",)
    samples: int = 10_000
    seed: int = 20_000
    protocol: FidProtocol = LEGACY
    reference: str = "auto"
    kept: int = 10_000
    data_root: Path | None = None
    device: str = "cpu"
    batch_size: int = 64
    options: GeneratorOptions = field(default_factory=GeneratorOptions)

    def __post_init__(self) -> None:
        check_at_least("samples", self.samples, 2)
        check_at_least("batch_size", self.batch_size, 1)
        check_at_least("seed", self.seed, 0)
        check_at_least("kept", self.kept, 2)

    @property
    def drawing(self) -> Drawing:
        """How the images of the subject are drawn."""
        return Drawing(self.samples, self.seed, self.device, self.protocol.quantize, self.options)


@dataclass(frozen=True)
class OtherSide:
    """What a subject is compared with.

    Attributes:
        name: what it is, in words.
        statistics: mean and covariance of its features, if a metric needs them.
        collected: single images of it, if a metric needs them.
        skipped: its unreadable images.
    """

    name: str
    statistics: FeatureStatistics | None
    collected: Collected | None
    skipped: tuple[str, ...] = ()

    @property
    def n_images(self) -> int | None:
        """How many images it stands for, if known."""
        if self.statistics is not None:
            return self.statistics.n
        return self.collected.n if self.collected else None


@dataclass(frozen=True)
class Evaluator:
    """Evaluates subjects, all by the same settings.

    Attributes:
        settings: what is measured, and how.
        extractor: returns the feature extractor, which is only made if a metric needs it. It is
            called often, so it should return the same one each time.
        progress: shows a bar for each pass over images.
        executor: draws the images of generators and takes their features; this process if None.
    """

    settings: EvaluationSettings
    extractor: Callable[[], ClassExtractor]
    progress: Progress = no_progress
    executor: Executor | None = None

    def evaluate(
        self,
        subject: Subject,
        dense: Subject | None = None,
        *,
        statistics_file: Path | None = None,
    ) -> EvaluationReport:
        """Every metric of the settings.

        Args:
            subject: the images to evaluate.
            dense: the dense generator; the report then has the paired ΔFID against it, for which
                the features of all samples are kept.
            statistics_file: where mean and covariance of the subject's features are saved, if not
                None, as a reference for later.

        Raises:
            InvalidValueError: the metrics, the subjects and the reference do not go together.
            MissingDataError: there is nothing to compare with.
        """
        settings = self.settings
        if dense is not None:
            if "fid" not in settings.metrics:
                raise InvalidValueError(
                    "reports ΔFID, so metrics must include fid", setting="against"
                )
            check_pair(subject, dense)
        reference = self.find_other_side(subject, dense)
        wanted = wanted_of(settings.metrics, settings.kept)
        wanted = replace(wanted, statistics=wanted.statistics or statistics_file is not None)
        if dense is not None:  # pairs of rows, and therefore all of them
            wanted = replace(wanted, statistics=False, features=len(subject.source))
        collected = self._collect(subject.source, wanted, "images")
        delta, fid_dense = None, 0.0
        if dense is not None:
            every = Wanted(features=len(dense.source))
            dense_side = self._collect(dense.source, every, "dense images")
            collected = replace(collected, statistics=statistics_of(_features(collected)))
            assert reference is not None
            fid_dense, delta = self._paired(reference, collected, dense_side)
        if statistics_file is not None:
            self._save_statistics(statistics_file, subject, collected)
        report = self._report(subject, wanted, collected, reference, paired=delta is not None)
        if dense is not None and delta is not None:
            assert report.fid is not None
            report = replace(
                report,
                against=str(dense.path),
                fid_dense=fid_dense,
                fid_dense_in_limit=delta.fid_dense,
                delta_fid=delta.delta,
                delta_fid_of=LIMIT,
                delta_fid_at_n=report.fid - fid_dense,
                ci_low=delta.ci_low,
                ci_high=delta.ci_high,
            )
        if "accuracy" in settings.metrics:
            accuracy, by = accuracy_of(subject, settings, self.progress)
            report = replace(report, accuracy=accuracy, accuracy_by=by)
        return report

    def find_other_side(self, subject: Subject, dense: Subject | None) -> OtherSide | None:
        """What the metrics compare with, as far as they need it; None if none compares.

        Raises:
            InvalidValueError: the reference does not have what the metrics need.
            MissingDataError: there is nothing to compare with.
        """
        settings = self.settings
        metrics = [metric for metric in settings.metrics if metric in NEED_REFERENCE]
        if not metrics:
            return None
        of_images = [metric for metric in metrics if metric in NEED_REFERENCE_IMAGES]
        if settings.reference in NAMED:
            return self._named_reference(subject, dense, needs_images=bool(of_images))
        path = local_copy(Path(settings.reference))
        given = open_given(settings.reference) if path.suffix == ".npz" else None
        if given is not None and given.images is None:
            if of_images:
                raise InvalidValueError(
                    f"{path} holds no images, but {' and '.join(of_images)} "
                    f"{'need' if len(of_images) > 1 else 'needs'} them; use a folder, an .npz "
                    "of images, a checkpoint or dense",
                    setting="reference",
                )
            statistics, name = given_statistics(given, self.extractor())
            return OtherSide(name, statistics, None)
        other = open_subject(path, replace(settings.drawing, seed=settings.seed + REFERENCE_SEED))
        wanted = wanted_of(settings.metrics, settings.kept, reference=True)
        collected = self._collect(other.source, wanted, "reference")
        return OtherSide(
            other.source.name, collected.statistics, collected, tuple(other.source.skipped)
        )

    def _named_reference(
        self, subject: Subject, dense: Subject | None, *, needs_images: bool
    ) -> OtherSide:
        """The checkpoint's own data set, or the images of the dense generator."""
        settings = self.settings
        generator = (dense or subject).generator
        if generator is None or subject.generator is None:
            raise InvalidValueError(
                f"{settings.reference} needs a generator, and {subject.path} has none; use a file "
                "of statistics, a folder, an .npz of images or a checkpoint",
                setting="reference",
            )
        beside = dense.provenance if dense else {}
        origin = subject.provenance if subject.provenance.get("dataset") else beside
        dataset = origin.get("dataset")
        resolution = interface_of(subject.generator).resolution
        size = interface_of(subject.generator).image_size

        @functools.cache
        def data() -> Images:
            return load_dataset(
                str(dataset),
                size=size,
                root=settings.data_root,
                fit=recorded_fit(subject.provenance or beside),
                background=recorded_background(subject.provenance or beside),
                progress=self.progress,
            )

        @functools.cache
        def own_images() -> Images:
            return dense_images(
                generator,
                settings.samples,
                settings.seed,
                batch_size=settings.batch_size,
                device=settings.device,
                quantize=settings.protocol.quantize,
            )

        statistics, name = None, ""
        if "fid" in settings.metrics:
            statistics, name = find_reference(
                settings.reference,
                self.extractor(),
                dataset=dataset,
                data_sha256=origin.get("data_sha256"),
                resolution=resolution,
                data=data,
                dense=own_images,
                cache=cache_dir(),
                progress=self.progress,
            )
        if not needs_images:
            return OtherSide(name, statistics, None)
        if settings.reference == "auto" and dataset is None:
            raise MissingDataError(
                "auto has nothing to compare with, since the checkpoint names no data set; use a "
                "folder, an .npz of images, a checkpoint or dense",
                setting="reference",
            )
        images = data() if settings.reference == "auto" else own_images()
        source = DatasetSource(images, choose_rows(len(images), settings.kept, settings.seed))
        wanted = wanted_of(settings.metrics, settings.kept, reference=True)
        collected = self._collect(source, replace(wanted, statistics=False), "reference images")
        images_name = f"{len(source)} images of {images.name}"
        names = [part for part in (name, images_name) if part]
        return OtherSide("; single images: ".join(names), statistics, collected)

    def _collect(self, source: ImageSource, wanted: Wanted, label: str) -> Collected:
        if wanted == Wanted():  # accuracy alone: it draws images of its own
            return Collected(n=len(source))
        with self.progress(label, len(source)) as advance:
            return collect(
                source,
                wanted,
                self.extractor,
                seed=self.settings.seed,
                batch_size=_fitting_batch(source, self.settings.batch_size),
                advance=advance,
                executor=self.executor,
            )

    def _paired(
        self, reference: OtherSide, collected: Collected, dense: Collected
    ) -> tuple[float, DeltaFid]:
        """The FID of the dense images, and the rise."""
        assert reference.statistics is not None
        prepared = FrechetReference(reference.statistics)
        with self.progress("interval", 1) as advance:
            delta = PairedFid(prepared, _features(dense)).compare(_features(collected))
            advance(1)
        return prepared.distance(statistics_of(_features(dense))), delta

    def _save_statistics(self, path: Path, subject: Subject, collected: Collected) -> None:
        assert collected.statistics is not None
        save_statistics(
            path,
            collected.statistics,
            extractor=self.extractor().name,
            dataset=subject.source.name,
            resolution=0,
            data_sha256="",
        )

    def _report(
        self,
        subject: Subject,
        wanted: Wanted,
        collected: Collected,
        reference: OtherSide | None,
        *,
        paired: bool,
    ) -> EvaluationReport:
        settings = self.settings
        extractor = self.extractor() if wanted.needs_features else None
        comparable = extractor is not None and extractor.comparable
        scores = score(
            settings.metrics,
            collected,
            reference=reference.collected if reference else None,
            reference_statistics=reference.statistics if reference else None,
            comparable=comparable,
            kept=settings.kept,
            seed=settings.seed,
        )
        n_reference = reference.n_images if reference else None
        dim = extractor.dim if extractor else None
        in_its_space = settings.protocol.comparable_with if comparable else NOT_COMPARABLE
        return EvaluationReport(
            **vars(scores),
            source=str(subject.path),
            extractor=extractor.name if extractor else None,
            comparable=comparable,
            protocol=settings.protocol.name,
            note=in_its_space if extractor else "pixels",
            n=collected.n,
            seed=settings.seed,
            reference=reference.name if reference else None,
            n_reference=n_reference,
            doubts=doubts(scores, collected.n, n_reference, dim, paired=paired),
            skipped=tuple(subject.source.skipped),
            skipped_in_reference=reference.skipped if reference else (),
        )


def accuracy_of(
    subject: Subject, settings: EvaluationSettings, progress: Progress = no_progress
) -> tuple[float, str]:
    """The share of images in the class that was asked for, 0 to 1, and what judged them.

    Raises:
        InvalidValueError: the subject is not a conditional generator of a named data set.
    """
    generator, dataset = subject.generator, subject.provenance.get("dataset")
    if generator is None or not interface_of(generator).conditional or dataset is None:
        raise InvalidValueError(
            f"{subject.path}: accuracy is for a checkpoint of a conditional generator that names "
            "its data set; leave it out of the metrics"
        )
    interface = interface_of(generator)
    images = load_dataset(
        str(dataset),
        size=interface.image_size,
        root=settings.data_root,
        channels=interface.image_shape[0],
        fit=recorded_fit(subject.provenance),
        background=recorded_background(subject.provenance),
        labelled=True,
        classes=interface.n_classes,
        progress=progress,
    )
    classifier = find_classifier(images, cache=cache_dir())
    accuracy = class_accuracy(
        generator,
        classifier,
        settings.samples,
        settings.seed,
        batch_size=settings.batch_size,
        device=settings.device,
    )
    by = f"a classifier that is right on {classifier.accuracy:.1%} of held-out {images.name}"
    return accuracy, by


def _fitting_batch(source: ImageSource, most: int) -> int:
    """Images that are taken at a time: `most`, or as many of a generator's as fit into memory."""
    if not isinstance(source, GeneratedSource):
        return most
    return fitting_rows(source.generator, source.latents[:SHOWN_ROWS].to(source.device), most)


def _features(collected: Collected) -> npt.NDArray[np.float32]:
    assert collected.features is not None
    return collected.features
