"""FID against training steps for the snapshots of a run: the curve beside the zoo checkpoint.

    python benchmarks/zoo_curve.py runs/fashion_mnist --samples 2000

All snapshots are measured on the same latents in one run. The FID is a Fréchet distance in
EfficientNet-Lite0 features and compares with nothing published.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import cast

import torch

from nas_gan.checkpoint import build_generator, load_checkpoint
from nas_gan.cli import progress
from nas_gan.files import atomic_path, write_json
from nas_gan.metrics.features import make_extractor
from nas_gan.metrics.frechet import FrechetReference, statistics_of
from nas_gan.metrics.reference import find_reference
from nas_gan.metrics.sampling import extract_features
from nas_gan.networks.latents import latent_bank


def measure(snapshots: list[Path], samples: int, seed: int) -> dict[str, object]:
    """FID of every snapshot, oldest first, on one bank of latents."""
    extractor = make_extractor("efficientnet-lite0", threads=torch.get_num_threads())
    provenance = load_checkpoint(snapshots[-1]).provenance
    statistics, source = find_reference(
        "auto",
        extractor,
        dataset=provenance["dataset"],
        data_sha256=provenance["data_sha256"],
        resolution=provenance["resolution"],
    )
    reference = FrechetReference(statistics)
    curve = []
    with progress("snapshots", len(snapshots)) as advance:
        for path in snapshots:
            checkpoint = load_checkpoint(path)
            generator = build_generator(checkpoint)
            latents = latent_bank(samples, cast(int, generator.latent_dim), seed)
            features = extract_features(generator, latents, extractor)
            fid = reference.distance(statistics_of(features))
            curve.append({"step": checkpoint.provenance["steps"], "fid": fid})
            advance(1)
    return {
        "extractor": extractor.name,
        "reference": source,
        "samples": samples,
        "seed": seed,
        "torch": str(torch.__version__),
        "curve": curve,
    }


def draw(result: dict[str, object], path: Path) -> None:
    from matplotlib.figure import Figure

    curve = result["curve"]
    assert isinstance(curve, list)
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([point["step"] for point in curve], [point["fid"] for point in curve], "o-")
    axes.set_xlabel("training step")
    axes.set_ylabel(f"Fréchet distance\n({result['extractor']})")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=777)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/zoo_curve.json"))
    options = parser.parse_args()
    result = measure(sorted(options.run_dir.glob("ckpt-*.pt")), options.samples, options.seed)
    write_json(options.out, result)
    draw(result, options.out.with_suffix(".png"))
    print(json.dumps(result["curve"], indent=1))


if __name__ == "__main__":
    main()
