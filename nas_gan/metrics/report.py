"""The result of an evaluation: plain values, and a table for people."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from nas_gan.metrics.protocol import ProtocolName
from nas_gan.metrics.scoring import Scores


@dataclass(frozen=True, kw_only=True)
class EvaluationReport(Scores):
    """What was measured and how; the fields of ΔFID are None without a dense generator.

    `delta_fid`, its interval and `fid_dense_in_limit` refer to what `delta_fid_of` says. `fid`,
    `fid_dense` and `delta_fid_at_n` are those of the images that were measured, as FIDs are
    published.

    `n` images were measured, not counting `skipped`; `extractor` is None if no metric needed
    features. `accuracy` is the share of a conditional generator's images that a classifier trained
    on the data set assigns to the class asked for. `doubts` says which scores have too few images.
    """

    source: str
    against: str | None = None
    extractor: str | None
    comparable: bool
    protocol: ProtocolName
    note: str
    n: int
    seed: int
    reference: str | None
    n_reference: int | None = None
    skipped: tuple[str, ...] = ()
    skipped_in_reference: tuple[str, ...] = ()
    fid_dense: float | None = None
    fid_dense_in_limit: float | None = None
    delta_fid: float | None = None
    delta_fid_of: str | None = None
    delta_fid_at_n: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    accuracy: float | None = None
    accuracy_by: str | None = None
    doubts: tuple[str, ...] = ()


def render(report: EvaluationReport) -> Table:
    """The report as a table for people."""
    table = Table("", "", show_header=False)
    for name, value in _rows(report):
        table.add_row(name, value)
    return table


def _rows(report: EvaluationReport) -> list[tuple[str, str]]:
    rows = [("measured", report.source)]
    if report.extractor is not None:
        rows += [("features", report.extractor), ("protocol", f"{report.protocol}: {report.note}")]
    if report.reference is not None:
        rows.append(("reference", report.reference))
    rows.append(("images", f"{report.n} (seed {report.seed})"))
    for where, skipped in (("", report.skipped), (" in reference", report.skipped_in_reference)):
        if skipped:
            more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
            names = "; ".join(skipped[:3])
            rows.append((f"skipped{where}", f"{len(skipped)} unreadable: {names}{more}"))
    return rows + _score_rows(report)


def _score_rows(report: EvaluationReport) -> list[tuple[str, str]]:
    # A distance in another space must not be read as a published FID.
    own = report.comparable
    rows: list[tuple[str, str]] = []
    if report.fid is not None:
        name = "FID" if own else f"Fréchet distance in {report.extractor}"
        rows.append((name, f"{report.fid:.4f}"))
    if report.fid_dense is not None and report.delta_fid is not None:
        interval = f"[{report.ci_low:+.4f}, {report.ci_high:+.4f}]"
        rows.append(("dense", f"{report.fid_dense:.4f}"))
        rows.append(("Δ against dense, 95 %", f"{report.delta_fid:+.4f}  {interval}"))
        rows.append(("that Δ is", f"{report.delta_fid_of}, estimated from {report.n}"))
        if report.delta_fid_at_n is not None:
            rows.append((f"Δ of these {report.n} images", f"{report.delta_fid_at_n:+.4f}"))
        if (limit := report.fid_dense_in_limit) is not None and limit > 0:
            rows.append(("Δ relative to dense", f"{report.delta_fid / limit:+.2%} of {limit:.4f}"))
    if (kid := report.kid) is not None:
        subsets = f"{kid.subsets} subsets of {kid.subset_size}"
        name = "KID" if own else f"kernel distance in {report.extractor}"
        rows.append((name, f"{kid.mean:.6f} ± {kid.std:.6f} ({subsets})"))
    for name, of in (
        ("Inception score", report.inception_score),
        ("class score, not an Inception score", report.class_score),
    ):
        if of is not None:
            rows.append((name, f"{of.mean:.4f} ± {of.std:.4f} ({of.splits} parts)"))
    if (prc := report.precision_recall) is not None:
        sides = f"{prc.n} against {prc.n_reference} images"
        rows.append(("precision, recall", f"{prc.precision:.4f}, {prc.recall:.4f} ({sides})"))
    for parzen in report.parzen or ():
        edge = ", at the edge of the grid" if parzen.at_edge else ""
        rows.append(
            (
                f"Parzen, {parzen.direction}",
                f"{parzen.mean:.2f} ± {parzen.standard_error:.2f} nats "
                f"(bandwidth {parzen.bandwidth}{edge}, by {parzen.folds}-fold cross validation)",
            )
        )
    for alike in (report.ms_ssim, report.ms_ssim_within_class):
        if alike is not None:
            name = "MS-SSIM of pairs" if alike.within == "all" else "MS-SSIM within a class"
            deviation = f"± {alike.standard_error:.4f} ({alike.pairs} pairs)"
            rows.append((name, f"{alike.mean:.4f} {deviation}"))
    if report.accuracy is not None:
        rows.append(("class accuracy", f"{report.accuracy:.2%} by {report.accuracy_by}"))
    rows += [("warning", doubt) for doubt in report.doubts]
    return rows
