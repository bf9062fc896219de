"""Claim: 50,000 samples are evaluated without image files; how the cost compares to pytorch-fid.

Both sides run as commands, on the same images, weights and reference file, on the same CPU:

* pytorch-fid reads a folder of PNG files, which have to be written first (timed separately);
* `python -m nas_gan.evaluate` draws the same images and streams them.

The Inception weights are random and have the right shapes, as neither time nor rounding depends on
them. The gain is bounded by the network, which runs on both sides: `network` holds its seconds per
image in eager torch, as pytorch-fid runs it, and in ONNX Runtime, as we do. The ratio of the
commands tends to that ratio as the number of images grows. What a small run gains beyond it comes
from the square root of a matrix. Memory is the peak of the whole process at two numbers of images.

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py [--full]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytorch_fid.inception
import torch
from PIL import Image
from torch import nn

from nas_gan.checkpoint import build_generator, load_checkpoint
from nas_gan.files import write_json
from nas_gan.metrics.features import make_extractor
from nas_gan.metrics.frechet import statistics_of
from nas_gan.metrics.inception import INCEPTION_FILE, InceptionV3
from nas_gan.metrics.sampling import generate_uint8
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import StreamedLatents

ROOT = Path(__file__).resolve().parent.parent
ZOO = ROOT / "nas_gan" / "zoo" / "fashion_mnist.pt"
RESULT = Path(__file__).parent / "results" / "evaluation.json"
SEED = 20_000


@dataclass(frozen=True)
class Run:
    """What a command took: wall seconds, processor seconds, and peak memory in MB."""

    wall: float
    cpu: float
    peak_mb: float
    output: str


def run(command: list[str], **environment: str) -> Run:
    """Run a command to its end; if it fails, so does this benchmark."""
    with tempfile.TemporaryFile("w+") as out:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
        peak = 0.0
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            peak = max(peak, peak_mb(process.pid))
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - start
        out.seek(0)
        output = out.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{output}")
    return Run(wall, usage.ru_utime + usage.ru_stime, peak, output)


def peak_mb(pid: int) -> float:
    """Peak memory of a running process so far, or 0 if it has just ended.

    This is not ru_maxrss: on Linux a child inherits the peak of the process that forked it, and
    this process is larger than the one it measures.
    """
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return int(found.group(1)) / 1024 if found else 0.0


def write_random_weights(path: Path) -> None:
    """Random Inception weights that preserve the scale of activations (He et al. 2015)."""
    fid = pytorch_fid.inception
    torch.manual_seed(0)
    parts = fid._inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
    parts.Mixed_5b = fid.FIDInceptionA(192, pool_features=32)
    parts.Mixed_5c = fid.FIDInceptionA(256, pool_features=64)
    parts.Mixed_5d = fid.FIDInceptionA(288, pool_features=64)
    for letter, width in zip("bcde", (128, 160, 160, 192), strict=True):
        setattr(parts, f"Mixed_6{letter}", fid.FIDInceptionC(768, channels_7x7=width))
    parts.Mixed_7b = fid.FIDInceptionE_1(1280)
    parts.Mixed_7c = fid.FIDInceptionE_2(2048)
    for module in parts.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    path.parent.mkdir(parents=True)
    torch.save(parts.state_dict(), path)


def write_folder(folder: Path, n: int) -> float:
    """Write the images that our side streams as PNG files; returns the seconds it took."""
    start = time.perf_counter()
    generator = build_generator(load_checkpoint(ZOO))
    folder.mkdir()
    index = 0
    for batch in generate_uint8(generator, StreamedLatents(interface_of(generator), n, SEED)):
        for image in batch.permute(0, 2, 3, 1).numpy():
            Image.fromarray(image).save(folder / f"{index:06d}.png")
            index += 1
    return time.perf_counter() - start


def write_reference(path: Path, weights: Path, n: int) -> None:
    """Statistics of images that no generator made, in the file format of pytorch-fid."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (n, 3, 8, 8)).astype(np.float32))
    images = nn.functional.interpolate(coarse, (32, 32), mode="bilinear").to(torch.uint8)
    extractor = make_extractor("inception", inception_weights=weights, threads=1)
    statistics = statistics_of(extractor(images))
    np.savez(path, mu=statistics.mean, sigma=statistics.covariance)


def time_network(weights: Path, repeats: int = 3) -> dict[str, float]:
    """Processor seconds per image of the network alone, the best of a few batches per side."""
    extractor = InceptionV3(weights, threads=1)
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)

    def eager() -> None:
        with torch.inference_mode():
            x = extractor.protocol.resize(images, 299)
            extractor._network(x / 127.5 - 1)

    best = {"eager_torch": np.inf, "onnx_runtime": np.inf}
    for _ in range(repeats + 1):  # one of them warms up
        for name, function in (("eager_torch", eager), ("onnx_runtime", lambda: extractor(images))):
            start = time.process_time()
            function()
            best[name] = min(best[name], (time.process_time() - start) / len(images))
    return {**best, "ratio": best["eager_torch"] / best["onnx_runtime"]}


def compare(scratch: Path, n: int) -> dict[str, Any]:
    """Both commands on the same n images."""
    weights = scratch / "hub" / "checkpoints" / INCEPTION_FILE
    reference, folder, out = scratch / "reference.npz", scratch / "images", scratch / "out.json"
    write_random_weights(weights)
    write_reference(reference, weights, 64)
    writing = write_folder(folder, n)
    theirs = run(
        [sys.executable, "-W", "ignore", "-m", "pytorch_fid", str(folder), str(reference),
         "--device", "cpu", "--num-workers", "0"],
        TORCH_HOME=str(scratch),
    )  # fmt: skip
    found = re.search(r"FID:\s*(\S+)", theirs.output)
    assert found is not None, theirs.output
    common = [
        "--features", "inception", "--inception-weights", str(weights),
        "--reference", str(reference), "--samples", str(n), "--seed", str(SEED), "--out", str(out),
    ]  # fmt: skip
    ours = run([sys.executable, "-m", "nas_gan.evaluate", str(ZOO), *common])
    fid_theirs, fid_ours = float(found.group(1)), json.loads(out.read_text())["fid"]
    row = {
        "n": n,
        "pytorch_fid": summary(theirs),
        "writing_png_s": writing,
        "nas_gan_evaluate": summary(ours),
        "ratio_cpu": theirs.cpu / ours.cpu,
        "ratio_wall": theirs.wall / ours.wall,
        "ratio_wall_with_writing": (theirs.wall + writing) / ours.wall,
        "fid_pytorch_fid": fid_theirs,
        "fid_nas_gan_evaluate": fid_ours,
        "relative_difference": abs(fid_ours - fid_theirs) / abs(fid_theirs),
        "network_cpu_s_an_image": time_network(weights),
    }
    print(
        f"{n} images: pytorch-fid {theirs.cpu:.0f} s, ours {ours.cpu:.0f} s of the processor "
        f"({row['ratio_cpu']:.2f}x; on the clock {row['ratio_wall']:.2f}x, with writing PNG "
        f"{row['ratio_wall_with_writing']:.2f}x); relative difference of the FIDs "
        f"{row['relative_difference']:.1e}; network alone "
        f"{row['network_cpu_s_an_image']['ratio']:.2f}x",
        flush=True,
    )
    return row


def measure_memory(scratch: Path, sizes: tuple[int, int]) -> dict[str, Any]:
    """Peak memory of an evaluation at two numbers of images, with the cheap features."""
    reference = scratch / "small.npz"
    np.savez(reference, mu=np.zeros(1280), sigma=np.eye(1280))
    runs = {
        n: run(
            [sys.executable, "-m", "nas_gan.evaluate", str(ZOO), "--samples", str(n),
             "--features", "efficientnet-lite0", "--reference", str(reference)]
        )
        for n in sizes
    }  # fmt: skip
    few, many = (runs[n].peak_mb for n in sizes)
    print(f"peak memory: {few:.0f} MB at {sizes[0]} images, {many:.0f} MB at {sizes[1]}")
    return {"peak_mb": {str(n): done.peak_mb for n, done in runs.items()}, "growth_mb": many - few}


def summary(done: Run) -> dict[str, float]:
    return {key: value for key, value in asdict(done).items() if key != "output"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=200, help="number of images to compare on")
    parser.add_argument(
        "--memory-samples", type=int, nargs=2, default=(500, 4000), metavar=("FEW", "MANY"),
        help="numbers of images between which memory must not grow",
    )  # fmt: skip
    parser.add_argument(
        "--full", action="store_true", help="compare on 50,000 images, which takes hours on a CPU"
    )
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON file to write")
    arguments = parser.parse_args()
    n = 50_000 if arguments.full else arguments.samples
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        result = {
            "machine": {
                "machine": platform.machine(),
                "cores": os.cpu_count(),
                "threads": os.environ.get("OMP_NUM_THREADS", "all"),
                "torch": torch.__version__,
                "onnxruntime": onnxruntime.__version__,
            },
            "speed": compare(scratch, n),
            "memory": measure_memory(scratch, tuple(arguments.memory_samples)),
        }
    write_json(arguments.out, result)


if __name__ == "__main__":
    main()
