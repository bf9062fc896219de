"""The page for people with a checkpoint of their own: every command in it runs."""

from __future__ import annotations

import json
import re
import shutil
from importlib import resources
from pathlib import Path

import foreign_nets
import numpy as np
import pytest
import torch
from PIL import Image
from test_docs import ROOT, python_commands, run_modules

PAGE = (ROOT / "docs" / "foreign.md").read_text(encoding="utf-8")
# What cuts the commands down to seconds.
QUICK = {
    "ard.inspect": ["--features", "efficientnet-lite0"],
    "ard.compress": [
        *("--methods", "tucker2", "--fractions", "0.5", "--no-bundle", "--anchors", "2"),
        *("--samples", "16", "--sweep-samples", "8", "--recover-steps", "1", "--max-trials", "1"),
        *("--features", "efficientnet-lite0", "--threads", "1", "--recover-batch", "4"),
    ],
    "nas_gan.sample": ["--columns", "2"],
    "export": ["--tensorrt-rtx", "off", "--samples", "4"],
    "edge_bench": ["--runs", "2", "--warmup", "1", "--duration", "0"],
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the code and the files of which the page speaks."""
    folder = tmp_path_factory.mktemp("foreign")
    shutil.copy(Path(__file__).parent / "foreign_nets.py", folder / "networks.py")
    nets = {name: net.build().state_dict() for name, net in foreign_nets.NETS.items()}
    other = {"weight": torch.zeros(3)}
    torch.save(nets["sngan"], folder / "netG.pth")
    optimiser = torch.optim.Adam(foreign_nets.cgan().parameters()).state_dict()
    torch.save(
        {"epoch": 9, "generator": nets["cgan"], "discriminator": other, "opt_g": optimiser},
        folder / "training.ckpt",
    )
    torch.save({"g": nets["stylegan2"], "d": other, "g_ema": nets["stylegan2"]},
               folder / "stylegan2.pt")  # fmt: skip
    torch.save({"params": nets["srgan"]}, folder / "srgan.pth")
    torch.save(nets["pix2pix"], folder / "latest_net_G.pth")
    rng = np.random.default_rng(0)
    for name, sizes in {"small_images": [(16, 16)], "photos": [(40, 32), (32, 48)]}.items():
        (folder / name).mkdir()
        for i in range(18):
            pixels = rng.integers(0, 256, (*sizes[i % len(sizes)], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")
    return folder


def commands() -> list[list[str]]:
    found = [command for command in python_commands(PAGE) if command[0] in QUICK]
    assert len(found) == 10
    return found


@pytest.mark.onnx
def test_every_command_of_the_page_runs(workplace: Path) -> None:
    pytest.importorskip("onnxsim", reason="onnxsim is not installed")
    lines = commands()
    try:
        faces = resources.files("gan_face_generate")
    except ModuleNotFoundError:
        lines = [line for line in lines if "weights.tar" not in line]
    else:
        shutil.copy(str(faces / "weights.tar"), workplace / "weights.tar")
    for command, done in zip(
        lines, run_modules([[*line, *QUICK[line[0]]] for line in lines], workplace), strict=True
    ):
        assert done.code in (0, 3), f"{' '.join(command)}: {done.err}"
        if command[0] == "ard.compress":
            run_dir = workplace / command[command.index("--run-dir") + 1]
            report = json.loads((run_dir / "report.json").read_text())
            assert report["compressed"]["params"] < report["dense"]["params"]
            assert "images of the dense generator" in report["reference"]
    assert (workplace / "labels.png").is_file()
    assert (workplace / "runs" / "sr_bundle" / "manifest.json").is_file()


def test_the_command_that_is_suggested_is_the_one_to_type(workplace: Path) -> None:
    line = ["ard.inspect", "netG.pth", "--model", "networks.py:SnganGenerator"]
    [done] = run_modules([[*line, *QUICK["ard.inspect"]]], workplace)
    [suggested] = re.findall(r"^next: python -m (ard\.compress .*)$", done.out, re.MULTILINE)
    command, budget = suggested.rsplit("=", 1)
    assert command == "ard.compress netG.pth --model=networks.py:SnganGenerator --fid-budget"
    spread = float(re.findall(r"have a spread of ([\d.e+]+);", done.out)[0])
    assert float(budget) == pytest.approx(0.02 * spread, rel=0.05)
