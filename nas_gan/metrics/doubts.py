"""What is doubtful about scores of too few images."""

from __future__ import annotations

from collections.abc import Iterator

from nas_gan.metrics.class_score import SPLITS, ClassScore
from nas_gan.metrics.kernel_distance import SUBSET_SIZE, KernelDistance
from nas_gan.metrics.scoring import Scores


def doubts(
    scores: Scores, n: int, n_reference: int | None, dim: int | None, *, paired: bool = False
) -> tuple[str, ...]:
    """A sentence for every score that so few images make doubtful.

    Args:
        scores: the scores.
        n: images that were scored.
        n_reference: images behind the reference, if known.
        dim: length of a feature vector; None if no score uses features.
        paired: whether the FID is compared with that of a dense generator.

    Returns:
        The sentences, none if there were enough images.
    """
    found: list[str] = []
    if scores.fid is not None and dim is not None:
        found += few_for_a_distance(n, dim)
        if n_reference is not None:
            found += few_for_a_distance(n_reference, dim, "reference images")
        if paired and n < dim:
            found.append(f"the interval of Δ needs {dim} images or more; with {n} it may be wrong")
    found += _of_kernel(scores.kid)
    found += _of_classes(scores.inception_score or scores.class_score)
    return tuple(found)


def few_for_a_distance(n: int, dim: int, what: str = "images") -> Iterator[str]:
    """What a Fréchet distance is worth if its covariance has more features than images."""
    if n < dim:
        yield (
            f"a Fréchet distance of {n} {what} in {dim} features is mostly bias, since the "
            f"covariance of so few is singular; use {dim} or more"
        )


def _of_kernel(kid: KernelDistance | None) -> Iterator[str]:
    if kid is not None and kid.subset_size < SUBSET_SIZE:
        fewest = min(kid.n, kid.n_reference)
        yield (
            f"a kernel distance over subsets of {kid.subset_size} images instead of {SUBSET_SIZE}, "
            f"since one side has only {fewest}; its mean has no bias, but its deviation is larger "
            "than in published values"
        )


def _of_classes(score: ClassScore | None) -> Iterator[str]:
    if score is None:
        return
    part = score.n // score.splits
    if score.n < SPLITS:
        yield (
            f"a class score of {score.n} images in one part, since {SPLITS} parts need {SPLITS} "
            f"images; it cannot exceed {score.n}, and has no deviation"
        )
    elif part < score.n_classes:
        yield (
            f"a class score over parts of {part} images, fewer than the {score.n_classes} classes; "
            f"it cannot exceed {part} and is too low; published values have parts of 5000"
        )
