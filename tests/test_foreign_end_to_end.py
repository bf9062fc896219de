"""Networks that other people write, from their checkpoint to the clock, through the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import foreign_nets
import numpy as np
import pytest
import torch
from PIL import Image

from ard.compress import CompressConfig
from ard.compress import main as compress
from edge_bench.__main__ import main as bench
from export.__main__ import Config as ExportConfig
from export.__main__ import main as export
from export.interface import arrays_of
from export.manifest import verify
from nas_gan import cli
from nas_gan.evaluate import EvaluateConfig
from nas_gan.evaluate import main as evaluate
from nas_gan.generators import GeneratorOptions, open_generator
from nas_gan.networks.latents import latents_of
from nas_gan.sample import SampleConfig
from nas_gan.sample import main as sample

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxsim", reason="onnxsim is not installed")
pytestmark = pytest.mark.onnx

QUICK = [
    *("--fid-budget", "1e6", "--methods", "svd", "tucker2", "--fractions", "0.5", "--no-bundle"),
    *("--samples", "32", "--sweep-samples", "16", "--recover-steps", "2", "--max-trials", "1"),
    *("--features", "efficientnet-lite0", "--anchors", "2", "--threads", "1"),
]
# How the weights lie in the file, and what the command must be told.
ENVELOPES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "sagan": lambda state: state,
    "stylegan2": lambda state: {"g_ema": state, "g": state, "d": {"x": torch.zeros(1)}},
    "lucid": lambda state: {"GAN": {f"module.{key}": value for key, value in state.items()}},
    "srgan": lambda state: {"params_ema": state},
    "pix2pix": lambda state: {f"module.{key}": value for key, value in state.items()},
    "sngan": lambda state: {"epoch": 3, "netG_state_dict": state, "netD": {"x": torch.zeros(1)}},
    "cgan": lambda state: {"state_dict": {f"generator.{k}": v for k, v in state.items()}},
}
TOLD = {
    "stylegan2": ["--output-range=-1,1"],
    "lucid": ["--state-key", "GAN"],
    "srgan": ["--input-range", "0,1"],
}


def command(main: Any, config: type[object], *arguments: str | Path) -> int:
    return cli.run(main, config, prog="test", description="", args=[str(a) for a in arguments])


def write_pictures(folder: Path, size: int, n: int = 24) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(n):
        smooth = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(smooth).resize((size, size), Image.Resampling.BICUBIC).save(
            folder / f"{i:02}.png"
        )


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Statistics of low rank, which make a score cheap."""
    path = tmp_path_factory.mktemp("reference") / "real.npz"
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((1280, 16))
    np.savez(path, mu=rng.uniform(0, 0.2, 1280), sigma=factor @ factor.T, n=17)
    return path


@pytest.mark.parametrize("name", foreign_nets.NETS)
def test_a_common_shape_goes_from_its_checkpoint_to_the_clock(
    name: str, reference: Path, tmp_path: Path
) -> None:
    net = foreign_nets.NETS[name]
    dense, run_dir, bundle = tmp_path / "net.pth", tmp_path / "run", tmp_path / "bundle"
    torch.save(ENVELOPES[name](net.build().state_dict()), dense)
    told = ["--model", f"foreign_nets:{name}", *TOLD.get(name, [])]
    if name in ("srgan", "pix2pix"):
        write_pictures(tmp_path / "in", 16 if name == "srgan" else 32)
        told += ["--inputs", str(tmp_path / "in")]

    threads = torch.get_num_threads()
    run = ("--run-dir", run_dir, "--reference", reference)
    assert command(compress, CompressConfig, dense, *told, *run, *QUICK) == 0
    torch.set_num_threads(threads)
    report = json.loads((run_dir / "report.json").read_text())
    assert report["compressed"]["params"] < report["dense"]["params"]
    assert report["interface"] in (run_dir / "report.html").read_text()

    out = ("--out", bundle, "--tensorrt-rtx", "off", "--samples", "6")
    assert command(export, ExportConfig, run_dir, *told, *out) == 0
    manifest = verify(bundle)
    verify(bundle / "dense")
    given = GeneratorOptions(
        model=f"foreign_nets:{name}", inputs=tmp_path / "in" if "--inputs" in told else None
    )
    # What was found, and what the command was told, is in the compressed file.
    opened = open_generator(run_dir / "compressed.pt", given)
    names = opened.interface.calling
    assert names is not None
    assert tuple(spec.name for spec in manifest.inputs) == names.input_names
    assert manifest.inputs[0].shape == ("batch", *names.input_shape)
    rows = latents_of(opened.interface, 4, seed=3)
    low, high = manifest.image_range
    session = onnxruntime.InferenceSession(
        bundle / manifest.onnx, providers=["CPUExecutionProvider"]
    )
    [images] = session.run(None, arrays_of(opened.interface, rows))
    with torch.no_grad():
        expected = opened.generator(rows).numpy()
    np.testing.assert_allclose((images - low) * 2 / (high - low) - 1, expected, atol=1e-3)

    quick = ["--runs", "4", "--warmup", "1", "--duration", "0", "--batch", "1", "3"]
    assert bench([str(bundle), *quick, "--out", str(tmp_path / "bench")]) == 0
    timed = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert [row["batch"] for row in timed["rows"]] == [1, 1, 3, 3]


@pytest.mark.parametrize("name", ["cgan", "srgan"])
def test_it_is_evaluated_and_drawn_as_well(name: str, reference: Path, tmp_path: Path) -> None:
    dense = tmp_path / "net.pth"
    torch.save(foreign_nets.NETS[name].build().state_dict(), dense)
    told = ["--model", f"foreign_nets:{name}", *TOLD.get(name, [])]
    if name == "srgan":
        write_pictures(tmp_path / "in", 16)
        told += ["--inputs", str(tmp_path / "in")]
    scored = ("--samples", "8", "--reference", reference, "--out", tmp_path / "scores.json")
    features = ("--features", "efficientnet-lite0")
    assert command(evaluate, EvaluateConfig, dense, *told, *scored, *features) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["n"] == 8
    assert command(sample, SampleConfig, dense, *told, "--n", "4", "--out", tmp_path / "g.png") == 0
    with Image.open(tmp_path / "g.png") as picture:
        assert picture.width > 32


def test_a_trained_network_from_the_registry_goes_through_the_whole_command(
    tmp_path: Path,
) -> None:
    faces = pytest.importorskip("gan_face_generate", reason="gan-face-generate is not installed")
    weights = Path(str(resources.files(faces) / "weights.tar"))
    told = [
        *("--model", "gan_face_generate.models:Generator"),
        *("--model-args", '{"ngpu": 0, "nc": 3, "nz": 100, "ngf": 64}'),
    ]
    options: list[str | Path] = [
        *("--fid-budget", "1e6", "--methods", "spatial_svd", "--fractions", "0.3"),
        *("--samples", "24", "--sweep-samples", "12", "--recover-steps", "1", "--max-trials", "1"),
        *("--features", "efficientnet-lite0", "--anchors", "2", "--threads", "1"),
        *("--reference", "dense", "--recover-batch", "4", "--run-dir", tmp_path),
    ]
    threads = torch.get_num_threads()
    assert command(compress, CompressConfig, weights, *told, *options) == 0
    torch.set_num_threads(threads)
    manifest = verify(tmp_path / "bundle")
    assert manifest.inputs[0].name == "input"
    assert manifest.inputs[0].shape == ("batch", 100, 1, 1)
    assert manifest.outputs[0].shape == ("batch", 3, 64, 64)
    assert (tmp_path / "report.html").is_file()


LOOPED = """
import torch
from torch import nn

class Looped(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.conv = nn.Linear(8, 16 * 8 * 8), nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, z):
        h = torch.stack([row.view(16, 8, 8) for row in self.layer(z)[: len(z)].unbind()])
        return torch.tanh(self.last(self.conv(h)))
"""


def test_a_bundle_that_fails_does_not_take_the_report_with_it(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "looped.py").write_text(LOOPED)
    scope: dict[str, Any] = {}
    exec(LOOPED, scope)
    torch.manual_seed(0)
    torch.save(scope["Looped"]().state_dict(), tmp_path / "looped.pth")
    told = ("--model", f"{tmp_path / 'looped.py'}:Looped", "--reference", reference)
    quick = [option for option in QUICK if option != "--no-bundle"]
    run_dir = tmp_path / "run"
    code = command(
        compress, CompressConfig, tmp_path / "looped.pth", *told, "--run-dir", run_dir, *quick
    )
    assert code == 1
    out, err = capsys.readouterr()
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: the result is saved, but not its bundle: python -m export: ")
    assert "x.shape[0]" in last
    assert "bundle     not written" in out
    report = json.loads((run_dir / "report.json").read_text())
    assert report["undelivered"]
    assert report["latency"] == []
    assert {"compressed.pt", "plan.json", "report.html"} <= {p.name for p in run_dir.iterdir()}
