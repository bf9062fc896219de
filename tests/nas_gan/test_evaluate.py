from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nas_gan.checkpoint import MMD_NAS_KIND, Checkpoint, save_checkpoint
from nas_gan.cli import run
from nas_gan.data.loading import load_dataset, synthetic_shapes
from nas_gan.errors import InvalidValueError
from nas_gan.evaluate import EvaluateConfig, evaluate, main
from nas_gan.metrics.classifier import class_accuracy, find_classifier
from nas_gan.metrics.reference import cache_dir
from nas_gan.metrics.report import EvaluationReport, render
from nas_gan.networks.models import build_model
from nas_gan.networks.searched import Generator, GeneratorConfig, initialize_

pytestmark = [pytest.mark.onnx, pytest.mark.weights]


def save_generator(path: Path, seed: int, scale: float = 1.0, **provenance: str) -> Path:
    config = GeneratorConfig(gf_dim=8, latent_dim=12, bottom_width=4, n_classes=0)
    generator = Generator(config)
    initialize_(generator, "xavier_uniform", torch.Generator().manual_seed(seed))
    state = generator.state_dict()
    state["to_rgb.2.weight"] *= scale
    architecture = {"kind": MMD_NAS_KIND, **config.to_dict()}
    save_checkpoint(Checkpoint(architecture, state, provenance=dict(provenance)), path)
    return path


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return save_generator(tmp_path / "dense.pt", seed=0)


def small(checkpoint: Path, **changes: Any) -> EvaluateConfig:
    options: dict[str, Any] = dict(
        samples=48, features="efficientnet-lite0", reference="dense", batch_size=20
    )
    return EvaluateConfig(checkpoint, **{**options, **changes})


def test_a_generator_is_measured_against_its_own_other_images(dense: Path):
    report = evaluate(small(dense))
    assert report.fid is not None
    assert report.reference == "48 images of the dense generator"
    assert (report.extractor, report.comparable) == ("efficientnet-lite0@96", False)
    assert report.fid > 0  # other latents than those of the reference
    assert report.delta_fid is None


def test_the_dense_generator_against_itself_differs_by_nothing(dense: Path):
    report = evaluate(small(dense, against=dense))
    assert report.fid == report.fid_dense
    assert (report.delta_fid, report.ci_low, report.ci_high) == (0, 0, 0)


def test_a_changed_generator_is_paired_with_the_dense_one(dense: Path, tmp_path: Path):
    changed = save_generator(tmp_path / "changed.pt", seed=0, scale=0.5)
    report: Any = evaluate(small(changed, against=dense))
    assert report.delta_fid_at_n == pytest.approx(report.fid - report.fid_dense)
    assert report.delta_fid_of == "in the limit of many images"
    assert report.ci_low < report.delta_fid < report.ci_high
    # The dense side does not depend on what it is compared with.
    assert report.fid_dense == pytest.approx(evaluate(small(dense)).fid, rel=1e-5)


def test_the_command_writes_what_it_prints(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "result.json"
    assert main(small(dense, against=dense, out=out)) == 0
    written = json.loads(out.read_text())
    assert written["n"] == 48
    assert written["seed"] == 20_000
    assert written["protocol"] == "legacy"
    assert "compare within this extractor only" in written["note"]
    printed = capsys.readouterr().out
    assert f"{written['fid']:.4f}" in printed


def test_a_distance_in_another_space_is_not_called_fid():
    shared: dict[str, Any] = dict(
        source="a.pt", protocol="legacy", note="", n=2, seed=0, reference="r", fid=3
    )
    other = EvaluationReport(**shared, extractor="efficientnet-lite0@96", comparable=False)
    inception = EvaluationReport(**shared, extractor="inception-v3", comparable=True)
    assert "FID" not in list(render(other).columns[0].cells)
    assert "FID" in list(render(inception).columns[0].cells)


def test_a_reference_file_with_statistics_of_other_features_is_one_line(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    np.savez(tmp_path / "inception.npz", mu=np.zeros(2048), sigma=np.zeros((2048, 2048)))
    arguments = [str(dense), "--reference", str(tmp_path / "inception.npz")]
    arguments += ["--features", "efficientnet-lite0", "--samples", "4"]
    code = run(main, EvaluateConfig, prog="evaluate", description="", args=arguments)
    [line] = capsys.readouterr().err.splitlines()
    assert code == 1
    assert "2048 features do not fit efficientnet-lite0@96, which has 1280" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.pt"], "no such file"),
        (["dense.pt"], "--reference auto .*names no data set.* dense$"),
        (["dense.pt", "--samples", "1"], "--samples must be at least 2"),
        (["dense.pt", "--against", "wide.pt"], "cannot be compared"),
    ],
    ids=["no file", "no reference", "samples", "other shapes"],
)
def test_what_cannot_be_measured_is_one_line(
    dense: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(dense.parent)
    config = GeneratorConfig(gf_dim=8, latent_dim=24, bottom_width=4, n_classes=0)
    architecture = {"kind": MMD_NAS_KIND, **config.to_dict()}
    save_checkpoint(Checkpoint(architecture, Generator(config).state_dict()), Path("wide.pt"))
    arguments = [*arguments, "--features", "efficientnet-lite0"]
    assert run(main, EvaluateConfig, prog="evaluate", description="", args=arguments) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line)


def test_the_named_data_set_is_used_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = save_generator(tmp_path / "g.pt", seed=1, dataset="synthetic")
    first, second = (evaluate(small(path, reference="auto")) for _ in range(2))
    assert first.reference == "512 images of synthetic"
    [file] = (tmp_path / "cache" / "ard-gan").iterdir()
    digest = synthetic_shapes(size=32).digest
    assert file.name == f"synthetic_32_efficientnet-lite0-96_{digest[:16]}.npz"
    # Kept in float32.
    assert first.fid == pytest.approx(second.fid, rel=1e-4)


def write_folder(folder: Path, n: int, seed: int) -> Path:
    folder.mkdir()
    for index, pixels in enumerate(random_pixels(n, seed)):
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
    return folder


def random_pixels(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), np.uint8)


def test_a_folder_and_an_array_of_the_same_images_score_the_same(tmp_path: Path):
    folder, other = (write_folder(tmp_path / str(seed), 12, seed) for seed in (0, 1))
    np.savez(tmp_path / "a.npz", random_pixels(12, 0))
    (folder / "zz.png").write_bytes(b"broken")
    of_folder, of_array = (
        evaluate(small(source, reference=str(other))) for source in (folder, tmp_path / "a.npz")
    )
    assert of_folder.fid == pytest.approx(of_array.fid, rel=1e-6)
    assert (of_folder.n, of_folder.n_reference, of_array.skipped) == (12, 12, ())
    [skipped] = of_folder.skipped
    assert "zz.png" in skipped
    assert "1 unreadable" in str(list(render(of_folder).columns[1].cells))


def test_every_metric_on_images_is_named_with_what_it_was_made_of(tmp_path: Path):
    pytest.importorskip("torch_fidelity")
    folder, other = (write_folder(tmp_path / str(seed), 12, seed) for seed in (0, 1))
    metrics = ("kid", "is", "prc", "parzen")
    report: Any = evaluate(small(folder, reference=str(other), metrics=metrics))
    assert report.fid is None
    assert report.inception_score is None  # ImageNet classes of EfficientNet
    assert report.class_score.classes == "efficientnet-lite0@96"
    assert (report.kid.subset_size, report.precision_recall.n_reference) == (6, 12)
    assert [score.n_centres for score in report.parzen] == [12, 12]
    printed = " ".join(map(str, render(report).columns[0].cells))
    assert "KID" not in printed
    assert "not an Inception score" in printed


def test_the_two_protocols_do_not_mix(dense: Path, tmp_path: Path):
    folder = write_folder(tmp_path / "i", 6, 0)
    saved = tmp_path / "clean.npz"
    made = evaluate(small(folder, protocol="clean", metrics=(), save_statistics=saved))
    assert made.extractor == "efficientnet-lite0@96:clean"
    with pytest.raises(InvalidValueError, match=r"of the clean protocol.* use protocol clean"):
        evaluate(small(dense, reference=str(saved)))
    report = evaluate(small(folder, reference=str(saved), protocol="clean"))
    assert report.fid == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["i"], "--reference auto needs a generator, and i has none; use a file"),
        (["i", "--reference", "i", "--against", "dense.pt"], "--against pairs two generators"),
        (
            ["dense.pt", "--metrics", "kid", "--reference", "s.npz"],
            "--reference s.npz .* kid needs them",
        ),
        (["dense.pt", "--metrics", "accuracy"], "accuracy is for .* a conditional generator"),
        (["dense.pt", "--metrics"], "--metrics names none"),
        (["dense.pt", "--reference", "s.npz", "--protocol", "clean"], "as those of pytorch-fid"),
    ],
    ids=["no reference", "unpaired", "statistics", "unconditional", "nothing", "protocol"],
)
def test_metrics_that_cannot_be_had_are_one_line(
    dense: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(dense.parent)
    write_folder(Path("i"), 1, 0)
    np.savez("s.npz", mu=np.zeros(1280), sigma=np.eye(1280))
    arguments = [*arguments, "--features", "efficientnet-lite0", "--samples", "4"]
    assert run(main, EvaluateConfig, prog="evaluate", description="", args=arguments) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(message, line)


def test_conditional_images_are_judged_by_a_classifier_of_their_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for label in range(2):  # a folder for each class
        (tmp_path / "data" / str(label)).mkdir(parents=True)
        for index in range(20):
            image = Image.new("L", (28, 28), 200 * label + index)
            image.save(tmp_path / "data" / str(label) / f"{index}.png")
    architecture = {"kind": "mnist-condgan", "n_classes": 2}
    generator = build_model(architecture, rng=torch.Generator().manual_seed(0)).eval()
    checkpoint = Checkpoint(architecture, generator.state_dict(), provenance={"dataset": "folder"})
    save_checkpoint(checkpoint, tmp_path / "g.pt")
    report = evaluate(small(tmp_path / "g.pt", metrics=("accuracy",), data_root=tmp_path / "data"))
    images = load_dataset("folder", size=28, root=tmp_path / "data", channels=1, labelled=True)
    judge = find_classifier(images, cache=cache_dir())
    assert report.accuracy == class_accuracy(generator, judge, 48, report.seed)
    assert "of held-out folder:data" in str(report.accuracy_by)
    assert (report.extractor, report.reference, report.fid) == (None, None, None)
