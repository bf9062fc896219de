"""Writing a report to files: JSON, a page of HTML and three figures."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ard.report.values import CompressionReport, to_json
from nas_gan.files import write_text


def write_report(
    report: CompressionReport, dense: nn.Module, small: nn.Module, latents: Tensor, folder: Path
) -> None:
    """Write report.json, report.html, pareto.png, sensitivity.png and samples.png.

    Args:
        report: the report.
        dense: the dense generator.
        small: the compressed generator.
        latents: `(n, latent_dim)` latents whose images are shown for both generators.
        folder: the folder to write to.
    """
    from ard.report.page import to_html
    from ard.report.plots import pareto_figure, samples_figure, sensitivity_figure
    from nas_gan.pictures.plot_style import save_figure

    with torch.inference_mode():
        pictures = samples_figure(dense(latents).cpu(), small(latents).cpu())
    save_figure(pictures, folder / "samples.png")
    save_figure(pareto_figure(report), folder / "pareto.png")
    sensitivity = sensitivity_figure(
        report.table,
        report.layers,
        budget=report.budget,
        plan=report.plan,
        distance=report.distance,
    )
    save_figure(sensitivity, folder / "sensitivity.png")
    write_text(folder / "report.json", to_json(report))
    html = to_html(report, samples_png=(folder / "samples.png").read_bytes())
    write_text(folder / "report.html", html)
