"""Claim: no file makes a reader of this project do anything but answer or refuse in one line.

Every reader gets files that were whole and of which something was changed at random, by a seed:
bits, bytes, values, shapes and types of tensors and arrays, names, nesting, or the kind of the file
itself. A case passes if the reader returns a value that is valid, or raises one of our errors with
one line; within 5 seconds and 1 GiB, and without writing outside of the folder of the case.

    python benchmarks/fuzz.py --cases 20000
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import io
import json
import logging
import math
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from ard.costs.latency_table import COLUMNS, LatencyTable
from ard.measuring.journal import FileJournal
from ard.measuring.measurement import Measurement
from ard.measuring.score import Score
from ard.plan import DENSE, Factorization, RankPlan
from ard.search.budget import Budget
from ard.selection import Priced, Rule, select
from edge_bench.bundle import load_bundle, load_samples
from edge_bench.compare import compare, read_result
from edge_bench.compare import to_text as comparison_text
from edge_bench.errors import EdgeBenchError
from edge_bench.layer_table import read_times
from edge_bench.layer_timing import load_folder
from export import build_engine
from export.manifest import BatchRange, FileEntry, Manifest, TensorSpec, verify, write_manifest
from export.sources import dense_checkpoint_of
from nas_gan.builders import parse_arguments
from nas_gan.checkpoint import Checkpoint, build_generator, load_checkpoint, save_checkpoint
from nas_gan.data.inputs import open_inputs
from nas_gan.data.loading import read_idx_images, read_idx_labels
from nas_gan.errors import NasGanError
from nas_gan.files import write_json, write_text
from nas_gan.metrics.frechet import statistics_of
from nas_gan.metrics.reference import check_covariance, load_statistics, save_statistics
from nas_gan.metrics.sources import ArraySource
from nas_gan.networks.genotype import MMD_NAS, Genotype
from nas_gan.networks.models import build_model
from nas_gan.networks.structure import layer_spec
from nas_gan.reading import read_text
from nas_gan.runs.grid import MAX_RUNS, read_grid
from nas_gan.runs.reading import find_runs
from nas_gan.training.config import TrainConfig
from nas_gan.training.describe import describe_networks
from nas_gan.training.log import read_log
from nas_gan.training.preset import load_preset
from nas_gan.training.state import Position, resume, save_state

SECONDS, BYTES, MEMORY = 5.0, 1 << 30, 12 << 30
OURS = (NasGanError, EdgeBenchError, build_engine.BuildError)
ARCHITECTURE = {"kind": "mmd-nas", "gf_dim": 4, "latent_dim": 6, "bottom_width": 2}


class TooLongError(BaseException):
    """A case took more than `SECONDS`."""


class InvalidAnswerError(Exception):
    """A reader returned what no reader should."""


@dataclass(frozen=True)
class Target:
    """A reader: makes its file in a folder, and reads the changed one; the path is that file's."""

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], object]


def require(good: object, what: str) -> None:
    """Raise InvalidAnswerError unless an answer is as it should be."""
    if not good:
        raise InvalidAnswerError(what)


# -- the readers, each with a file that it reads


def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    generator = build_model(ARCHITECTURE)
    layer = layer_spec(generator.get_submodule("l1"))
    weights = {name: t.detach() for name, t in generator.state_dict().items()}
    weights |= {n.replace("l1.", "l1.0."): t for n, t in weights.items() if n.startswith("l1.")}
    weights = {name: t for name, t in weights.items() if name not in ("l1.weight", "l1.bias")}
    provenance = {"dataset": "fashion_mnist", "resolution": 16, "loss": "hinge"}
    return Checkpoint(ARCHITECTURE, weights, None, None, provenance, {"l1": [layer]})


def make_checkpoint(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / f"ckpt{suffix}"
        save_checkpoint(checkpoint(), path)
        return path

    return make


def make_foreign(zipped: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "foreign.pth"
        weights = {f"netG.{name}": t for name, t in checkpoint().generator.items()}
        content = {"state_dict": weights, "epoch": 3, "optimizer": {"lr": 0.1}}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        return path

    return make


def make_shards(folder: Path) -> Path:
    torch.save({"a.weight": torch.ones(2, 2)}, folder / "a.bin")
    torch.save({"b.weight": torch.ones(3)}, folder / "b.bin")
    path = folder / "model.json"
    write_json(path, {"weight_map": {"a.weight": "a.bin", "b.weight": "b.bin"}})
    return path


def read_checkpoint(path: Path) -> None:
    found = load_checkpoint(path)
    for name, tensor in found.generator.items():
        require(isinstance(name, str) and not tensor.is_complex(), f"weights {name}")
        require(not tensor.is_floating_point() or tensor.isfinite().all(), f"{name} is not finite")
    if "kind" in found.architecture and found.architecture["kind"] != "external":
        build_generator(found)


class Step:
    """A step of a training whose state is a tensor and a count."""

    def __init__(self) -> None:
        self.weights, self.updates = torch.zeros(3, 2), 0

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.weights.copy_(state["weights"])
        self.updates = int(state["updates"])


def make_state(folder: Path) -> Path:
    save_state(folder, {"seed": "0", "loss": "hinge"}, Step(), Position(4))
    return folder / "state.pt"


def read_state(path: Path) -> None:
    done = resume(path.parent, {"seed": "0", "loss": "hinge"}, Step()).done
    require(type(done) is int and done >= 0, f"update {done}")


def make_statistics(folder: Path) -> Path:
    features = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    path = folder / "stats.npz"
    save_statistics(
        path,
        statistics_of(features),
        extractor="made-up",
        dataset="none",
        resolution=8,
        data_sha256="0",
    )
    return path


def read_statistics(path: Path) -> None:
    found = load_statistics(path)
    require(found.mean.dtype == found.covariance.dtype == np.float64, "not float64")
    require(found.n is None or found.n >= 2, f"{found.n} images")
    check_covariance(found.covariance)


def make_images(folder: Path) -> Path:
    path = folder / "images.npz"
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    np.savez_compressed(path, images=images, labels=np.arange(5))
    return path


def read_images(path: Path) -> None:
    for batch in ArraySource(path).batches(2):
        require(batch.images.shape[1] == 3, "no colours")


def make_inputs(folder: Path) -> Path:
    path = folder / "inputs.npy"
    np.save(path, np.random.default_rng(0).normal(size=(12, 3, 4)).astype(np.float32))
    return path


def read_inputs(path: Path) -> None:
    found = open_inputs(path, channels=3, size=None)
    require(found.take(2, 0, "search").isfinite().all(), "not finite")


def make_genotype(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        if name.endswith(".npy"):
            MMD_NAS.to_npy(path)
        else:
            write_text(path, MMD_NAS.to_json())
        return path

    return make


def read_genotype(path: Path) -> None:
    describe_networks(TrainConfig(genotype=path))
    if path.suffix == ".json":
        Genotype.from_json(read_text(path))


def make_networks(folder: Path) -> Path:
    path = folder / "networks.json"
    layers = [{"type": "linear", "units": 16}, {"type": "reshape", "shape": [1, 4, 4]}]
    write_json(
        path,
        {
            "generator": {"kind": "layers", "input": [6], "layers": layers, "n_classes": 0},
            "discriminator": {"kind": "mmd-nas", "df_dim": 4, "n_outputs": 1},
        },
    )
    return path


def make_preset(folder: Path) -> Path:
    path = folder / "preset.toml"
    path.write_text(
        'dataset = "synthetic"\nsteps = 10\ng_lr = 1e-4\nseed = 3\nbatch_size = 8\n'
        'loss = "hinge"\neval_metrics = ["fid"]\nlog_health = true\n'
    )
    return path


def make_grid(folder: Path) -> Path:
    path = folder / "grid.toml"
    path.write_text(
        'presets = ["dcgan"]\nseeds = [0, 1]\nmetrics = ["best_fid", "fid<=30"]\n'
        '[settings]\nsteps = 10\n[variants]\nloss = ["hinge", "default"]\n[skip]\ndefault = true\n'
    )
    return path


def read_grid_file(path: Path) -> None:
    require(len(read_grid(path).combinations()) <= MAX_RUNS, "too many runs")


def make_run(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for run in ("good", "bad"):
            place = folder / run
            (place / "samples").mkdir(parents=True)
            write_json(place / "config.json", {"steps": 20, "loss": "hinge", "g_lr": 1e-4})
            rows = [{"step": step, "loss/g": 0.5, "fid": 40 - step} for step in (10, 20)]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (place / "log.jsonl").write_text(text)
            write_json(place / "fid.json", {"extractor": "x", "fid": {"value": 3.5}})
            (place / "samples" / "10.png").write_bytes(b"\x89PNG")
        return folder / "bad" / name

    return make


def read_runs(path: Path) -> None:
    runs = {run.name: run for run in find_runs(path.parents[1])}
    require(runs["good"].status == "finished", "a bad run spoils a good one")
    for run in runs.values():
        json.dumps(run.scalars, allow_nan=False)
        require(run.last_step < 2**53, f"step {run.last_step}")
    if path.name == "log.jsonl":
        read_log(path)


def make_plan(folder: Path) -> Path:
    path = folder / "plan.json"
    plan = RankPlan({"l1": Factorization("svd", (8,))}, {"l1": (16, 12)})
    write_text(path, plan.to_json())
    return path


def make_table(folder: Path) -> Path:
    path = folder / "table.csv"
    path.write_text(
        "layer,rank,fid,reduction_pct,dense_params\n"
        "a,8,41.5,60,1000\na,16,40.5,30,1000\nb,8,44,50,2000\n"
    )
    return path


def make_sensitivity(folder: Path) -> Path:
    path = folder / "sensitivity.csv"
    head = "layer,kind,method,rank,params,macs,fid,delta_fid,ci_low,ci_high,n_samples"
    path.write_text(
        f"{head},dense_params,dense_macs,signature\n"
        ",,dense,,,,40,0,0,0,100,,,\n"
        "l1,linear,svd,8,700,600,41,1,0.5,1.5,100,2000,1900,linear 64x32 bias\n"
        "l1,linear,svd,4,400,300,43,3,2.5,3.5,100,2000,1900,linear 64x32 bias\n"
    )
    return path


def read_table(path: Path) -> None:
    budget = Rule(None, Budget.parse("2"))
    select(path, budget, Priced("params", None), 40.0).to_csv()


LATENCY = (
    *("linear 64x32 bias", "dense", "1", "0.5", "0.4", "0.6", "onnxruntime", "cpu", "1", "fp32"),
)


def make_latency(folder: Path) -> Path:
    path = folder / "latency.csv"
    text = io.StringIO()
    rows = [LATENCY, (LATENCY[0], "svd(8)", *LATENCY[2:])]
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    path.write_text(text.getvalue())
    return path


def read_latency(path: Path) -> None:
    for row in LatencyTable.read(path).rows:
        require(math.isfinite(row.milliseconds) and row.milliseconds > 0, "time")
        require(row.ci_low <= row.ci_high, "interval")


def read_edge_latency(path: Path) -> None:
    for row in read_times(path):
        require(math.isfinite(row.milliseconds) and row.milliseconds > 0, "time")
        require(row.ci_low <= row.ci_high, "interval")


FINGERPRINT = {"checkpoint": "abc", "seed": 0}


def make_journal(folder: Path) -> Path:
    journal = FileJournal(folder / "journal.jsonl", FINGERPRINT)
    for rank in (2, 4, 8):
        score = Score(
            metric="fid",
            value=40.0 + rank,
            rise=float(rank),
            ci_low=rank - 0.5,
            ci_high=rank + 0.5,
            n_images=100,
            features="x",
            measured=True,
        )
        plan = RankPlan({"l1": Factorization("svd", (rank,))}) if rank < 8 else DENSE
        journal.append(Measurement("single", plan, score))
    return journal.path


def make_old_journal(folder: Path) -> Path:
    path = make_journal(folder)
    path.write_bytes(re.sub(rb', "crc32": "\w+"', b"", path.read_bytes()))
    return path


def read_journal(path: Path) -> None:
    for measurement in FileJournal(path, FINGERPRINT).measurements():
        score = measurement.score
        numbers = (score.value, score.rise, score.ci_low, score.ci_high)
        require(all(map(math.isfinite, numbers)), "not finite")
        require(score.ci_low <= score.ci_high, "interval")


def make_bundle(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "model.onnx").write_bytes(b"graph")
        np.save(folder / "latents.npy", np.ones((4, 6), np.float32))
        files = {n: FileEntry.of(folder / n) for n in ("model.onnx", "latents.npy")}
        manifest = Manifest(
            name="model",
            onnx="model.onnx",
            files=files,
            inputs=(TensorSpec("latents", "float32", ("batch", 6)),),
            outputs=(TensorSpec("images", "float32", ("batch", 3, 8, 8)),),
            opset=18,
            precision="fp32",
            batch=BatchRange(),
            tools={"onnx": "1.17"},
            latents={"file": "latents.npy", "seed": 0, "samples": 4},
            parity={"max_abs": 0.0, "psnr_db": None, "samples": 4},
            params=10,
            n_classes=0,
        )
        write_manifest(manifest, folder)
        (folder / "model.engine").write_bytes(b"engine")
        record = {"engine": "model.engine", "sha256": "0", "onnx_sha256": "0"}
        write_json(folder / "engine.json", record)
        return folder / name

    return make


def read_bundle(path: Path) -> None:
    manifest = verify(path.parent)
    require(all(Path(name).name == name for name in manifest.files), "a name outside")


def read_build(path: Path) -> None:
    manifest = build_engine.read_manifest(path.parent)
    build_engine.read_onnx(path.parent, manifest)
    options = build_engine.parse(["--bundle", str(path.parent), "--dry-run"])
    build_engine.run(options)
    build_engine.is_current(path.parent / "model.engine", {})


def read_edge_bundle(path: Path) -> None:
    bundle = load_bundle(path.parent)
    load_samples(bundle)
    require(bundle.engine is None, "an engine whose hash is another")


def make_layers(folder: Path) -> Path:
    (folder / "a.onnx").write_bytes(b"graph")
    listed = [{"signature": "linear 4x4", "choice": "dense", "file": "a.onnx"}]
    write_json(folder / "layers.json", {"format": 1, "precision": "fp32", "layers": listed})
    return folder / "layers.json"


def make_result(folder: Path) -> Path:
    rows = [
        {
            "bundle": name, "batch": batch, "runner": "onnxruntime", "latency": {"p50_us": 2.5},
            "samples_us": [[2.5, 3.0], [2.5, 2.0]], "rounds_by_process": [1, 1], "busy": None,
        }
        for batch in (1, 64) for name in ("dense", "small")
    ]  # fmt: skip
    result = {
        "format": 1, "rows": rows, "runtimes": ["onnxruntime 1.0"] * 2, "threads": 1,
        "bundles": [{"name": name, "model_sha256": "ab" * 32} for name in ("dense", "small")],
        "plan": {"runs": 4, "repeats": 2}, "throttled": False,
        "device": {"cpu": "a core", "usable_cores": 2, "packages": {"numpy": "2.0"}},
    }  # fmt: skip
    write_json(folder / "bench.json", result)
    write_json(folder / "other.json", result)
    return folder / "bench.json"


def read_comparison(path: Path) -> None:
    found = compare(read_result(path), read_result(path.with_name("other.json")))
    require(all(math.isfinite(row.ratio) and row.ratio > 0 for row in found.compared), "ratio")
    require(comparison_text(found).endswith("\n"), "text")


def make_settings(folder: Path) -> Path:
    (folder / "ckpt.pt").write_bytes(b"0")
    write_json(folder / "config.json", {"checkpoint": "ckpt.pt", "samples": 10})
    return folder / "config.json"


def make_arguments(folder: Path) -> Path:
    write_json(folder / "args.json", {"ngf": 64, "activation": "relu", "sizes": [1, 2]})
    return folder / "args.json"


def make_idx(images: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        head = struct.pack(">4i", 2051, 3, 4, 4) if images else struct.pack(">2i", 2049, 48)
        path = folder / "idx.gz"
        path.write_bytes(gzip.compress(head + bytes(range(48))))
        return path

    return make


TARGETS = (
    Target("checkpoint .pt", make_checkpoint(".pt"), read_checkpoint),
    Target("checkpoint .safetensors", make_checkpoint(".safetensors"), read_checkpoint),
    Target("foreign checkpoint", make_foreign(True), read_checkpoint),
    Target("foreign checkpoint, legacy", make_foreign(False), read_checkpoint),
    Target("index of shards", make_shards, read_checkpoint),
    Target("training state", make_state, read_state),
    Target("reference statistics", make_statistics, read_statistics),
    Target("images .npz", make_images, read_images),
    Target("inputs .npy", make_inputs, read_inputs),
    Target("genotype .npy", make_genotype("g.npy"), read_genotype),
    Target("genotype .json", make_genotype("g.json"), read_genotype),
    Target("networks", make_networks, lambda path: describe_networks(TrainConfig(networks=path))),
    Target("preset", make_preset, lambda path: load_preset(path, TrainConfig)),
    Target("grid", make_grid, read_grid_file),
    Target("settings of a run", make_run("config.json"), read_runs),
    Target("log of a run", make_run("log.jsonl"), read_runs),
    Target("evaluation of a run", make_run("fid.json"), read_runs),
    Target("sample of a run", make_run("samples/10.png"), lambda path: read_runs(path.parent)),
    Target("plan", make_plan, lambda path: RankPlan.from_json(read_text(path))),
    Target("plain table", make_table, read_table),
    Target("sensitivity table", make_sensitivity, read_table),
    Target("latency table", make_latency, read_latency),
    Target("latency table on the device", make_latency, read_edge_latency),
    Target("journal", make_journal, read_journal),
    Target("journal without checksums", make_old_journal, read_journal),
    Target("manifest", make_bundle("manifest.json"), read_bundle),
    Target("manifest for an engine", make_bundle("manifest.json"), read_build),
    Target("record of an engine", make_bundle("engine.json"), read_build),
    Target("manifest on the device", make_bundle("manifest.json"), read_edge_bundle),
    Target("record on the device", make_bundle("engine.json"), read_edge_bundle),
    Target("latents on the device", make_bundle("latents.npy"), read_edge_bundle),
    Target("list of layers", make_layers, lambda path: load_folder(path.parent)),
    Target("result on the device", make_result, read_comparison),
    Target("settings of a search", make_settings, lambda path: dense_checkpoint_of(path.parent)),
    Target("arguments", make_arguments, lambda path: parse_arguments(f"@{path}")),
    Target("images .gz", make_idx(True), read_idx_images),
    Target("labels .gz", make_idx(False), read_idx_labels),
)


# -- what is done to a file

WEIRD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1.5,
        -0.0,
        1e308,
        2**31,
        2**63,
        10**39,
        10**400,
        "",
        ".",
        "..",
        "/",
    ),
    *(
        "../../evil",
        "/tmp/evil",
        "a\0b",
        "\ud800",
        "$(touch x)",
        "a\nb",
        "x" * 5000,
        "NaN",
        "1e999",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        {"": None},
        {"a": {"b": {}}},
        [1] * 2000,
        math.nan,
        math.inf,
        -math.inf,
    ),
)
PIECES = (
    *(b"NaN", b"Infinity", b"-1", b"true", b"null", b"1e999", b"9" * 400, b"9" * 5000, b"{", b"}"),
    *(b"[" * 3000, b"[" * 100_000, b'{"a":' * 3000, b'"', b",", b"\n", b"\0", b"\xff\xfe", b"\r"),
    *(b"../../evil", b"\xed\xa0\x80", b"inf", b"nan", b"=", b"[[", b"'''", b"0x", b"1979-05-27"),
)
_VALUE = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:e[-+]?\d+)?|true|false|null')


def change(path: Path, rng: random.Random) -> str:
    """Change a file at random; returns what was done."""
    ways: list[Callable[[Path, random.Random], None]] = [bits, cut, splice, value, value]
    if path.suffix == ".npz":
        ways += [member, member, member]
    if path.suffix in (".pt", ".pth"):
        ways += [content, content, content]
    if path.suffix == ".npy":
        ways += [header, header]
    if path.suffix in (".json", ".jsonl"):
        ways += [plain, plain, plain]
    if path.suffix == ".gz":
        ways += [packed, packed]
    if rng.random() < 0.03:
        ways = [kind]
    way = rng.choice(ways)
    try:
        way(path, rng)
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError, RecursionError):
        bits(path, rng)
    return getattr(way, "__name__", "changed")


def bits(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    first, last = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    path.write_bytes(rng.choice((data[:first], data[first:last], data[:first] + data[last:], b"")))


def splice(path: Path, rng: random.Random) -> None:
    data, piece = path.read_bytes(), rng.choice(PIECES)
    at = rng.randrange(len(data) + 1)
    path.write_bytes(data[:at] + piece + data[at + rng.choice((0, 0, len(piece))) :])


def value(path: Path, rng: random.Random) -> None:
    """Another value in a text, whatever the text is."""
    data = path.read_bytes()
    found = list(_VALUE.finditer(data))
    if not found:
        bits(path, rng)
        return
    at = rng.choice(found)
    new = json.dumps(rng.choice(WEIRD)).encode()
    path.write_bytes(data[: at.start()] + new + data[at.end() :])


def mutated(node: Any, rng: random.Random, new: Callable[[], Any]) -> Any:
    """Plain values with one of them replaced, removed, renamed or doubled."""
    if isinstance(node, Mapping) and node:
        key = rng.choice(list(node))
        step = rng.random()
        if step < 0.1:
            return {k: v for k, v in node.items() if k != key}
        if step < 0.2:
            return {**node, rng.choice(("more", "", "../x", 3, key)): new()}
        return {**node, key: new() if step < 0.4 else mutated(node[key], rng, new)}
    if isinstance(node, list | tuple) and node:
        at = rng.randrange(len(node))
        step = rng.random()
        items = list(node)
        if step < 0.15:
            return items[:at] + items[at + 1 :]
        if step < 0.3:
            return items + [items[at]] * rng.choice((1, 3, 20_000))
        items[at] = new() if step < 0.5 else mutated(items[at], rng, new)
        return items
    return new()


def plain(path: Path, rng: random.Random) -> None:
    """Another value in JSON."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    at = rng.randrange(len(lines))
    lines[at] = json.dumps(mutated(json.loads(lines[at]), rng, lambda: rng.choice(WEIRD)))
    path.write_text("\n".join(lines) + "\n")


def content(path: Path, rng: random.Random) -> None:
    """Another value in a file of tensors, without its digest, so that other checks must do."""
    held = torch.load(path, weights_only=True)
    if isinstance(held, dict) and rng.random() < 0.9:
        held.pop("content_sha256", None)
    tensors: tuple[Callable[[], Any], ...] = (
        lambda: torch.zeros(1).expand(2**33),
        lambda: torch.zeros(1, dtype=torch.float16).expand(2**16, 2**16),
        lambda: torch.zeros(2, 2, dtype=torch.complex64),
        lambda: torch.ones(4, 6, dtype=torch.int64),
        lambda: torch.full((4, 6), math.nan),
        lambda: torch.tensor(1.0),
        lambda: torch.zeros(0, 3),
        lambda: torch.empty(2**40, device="meta"),
        lambda: torch.zeros(2, 3, dtype=torch.bool),
        lambda: torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (2**33,)),
        lambda: rng.choice(WEIRD),
        lambda: rng.choice((10**6, 100_000, 2**20, 60_000)),
        lambda: {"type": "Linear", "in_features": 10**6, "out_features": 10**6, "bias": True},
    )
    torch.save(mutated(held, rng, lambda: rng.choice(tensors)()), path)


def _head(rng: random.Random, body: bytes) -> bytes:
    """A file of `numpy.save` whose head says something else than its body."""
    shapes = ("(5,)", "(2**70,)", "(1099511627776,)", "(-1,)", "(True,)", "(0, 4)", "()", "5",
              "(4294967296, 4294967296)", "(" * 50)  # fmt: skip
    types = ("'<f4'", "'|O'", "'<c16'", "'|V0'", "'|u1'", "'<U1000000'", "[('a', '<f4')]", "'x'")
    head = (
        f"{{'descr': {rng.choice(types)}, 'fortran_order': {rng.choice(('True', 'False', '3'))}, "
        f"'shape': {rng.choice(shapes)}, }}\n"
    ).encode()
    version = rng.choice((b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x09"))
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(head))
    return b"\x93NUMPY" + version + length + head + body


def header(path: Path, rng: random.Random) -> None:
    path.write_bytes(_head(rng, path.read_bytes()[128:]))


def member(path: Path, rng: random.Random) -> None:
    """Another array in an .npz file."""
    arrays: tuple[Callable[[], Any], ...] = (
        lambda: np.zeros((3, 3), complex),
        lambda: np.full((6, 6), np.nan),
        lambda: -np.eye(6),
        lambda: np.triu(np.ones((6, 6))),
        lambda: np.array(rng.choice((1, -5, 2**62, 0, 3.5, True))),
        lambda: np.array("text"),
        lambda: np.zeros((0, 4), np.uint8),
        lambda: np.zeros(1_000_000, np.uint8),
        lambda: np.arange(6.0),
        lambda: np.full(21, 1e300),
    )
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    if rng.random() < 0.4:
        members[name] = _head(rng, members[name][128:])
    else:
        data = io.BytesIO()
        np.save(data, rng.choice(arrays)())
        members[name] = data.getvalue()
    if rng.random() < 0.1:  # one that nobody asks for, of more than memory should hold
        members["unused.npy"] = bytes(1 << 24)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data_ in members.items():
            archive.writestr(name, data_)


def packed(path: Path, rng: random.Random) -> None:
    """Other bytes inside a gzip file."""
    inner = path.with_name("inner")
    inner.write_bytes(gzip.decompress(path.read_bytes()))
    rng.choice((bits, cut, splice))(inner, rng)
    path.write_bytes(gzip.compress(inner.read_bytes()))


def kind(path: Path, rng: random.Random) -> None:
    """Something else than a file, or another file."""
    path.unlink()
    choice = rng.randrange(6)
    if choice == 0:
        os.mkfifo(path)
    elif choice == 1:
        path.mkdir()
    elif choice == 2:
        path.symlink_to("/dev/zero")
    elif choice == 3:
        path.symlink_to(path)
    elif choice == 4:
        with path.open("wb") as file:
            file.truncate(3 << 30)  # without blocks
    # else there is none


# -- the oracle


class Watch:
    """Notes every file that is written outside of a folder."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.outside: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        paths: list[Any] = []
        if event == "open" and isinstance(arguments[2], int):
            written = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            paths = [arguments[0]] if written else []
        elif event in ("os.rename", "os.link", "os.symlink", "shutil.move"):
            paths = [arguments[1]]
        elif event in ("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"):
            paths = [arguments[0]]
        elif event in ("subprocess.Popen", "os.system", "os.exec"):
            self.outside.append(f"{event} {arguments[:1]}")
        for path in paths:
            if isinstance(path, str | bytes | os.PathLike):
                place = os.path.realpath(os.fsdecode(path))
                if not place.startswith(os.path.realpath(self.folder)):
                    self.outside.append(f"{event} {place}")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def judge(target: Target, path: Path, watch: Watch) -> tuple[str, str]:
    """`refused`, `answered` or `failed`, and the line."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLongError

    signal.signal(signal.SIGALRM, stop)
    before, start = _peak(), time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, 2 * SECONDS)
    watch.outside.clear()
    watch.folder = path.parents[1] if target.name.endswith("of a run") else path.parent
    outcome, line = "answered", ""
    try:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                target.read(path)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except OURS as error:
        outcome, line = "refused", str(error)
        if not line.strip() or len(line.splitlines()) > 1:
            outcome = "failed"
    except TooLongError:
        outcome, line = "failed", "it takes too long"
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        outcome, line = "failed", f"{error!r:.300} in {place.filename}:{place.lineno}"
    finally:
        watch.folder = None
    seconds, grown = time.perf_counter() - start, _peak() - before
    if seconds > SECONDS:
        return "failed", f"{seconds:.1f} s: {line}"
    if grown > BYTES:
        return "failed", f"{grown >> 20} MiB: {line}"
    if watch.outside:
        return "failed", f"outside of the folder: {watch.outside[0]}"
    return outcome, line


def run(cases: int, seed: int, show: Callable[[str], None] = print) -> list[str]:
    """Judge so many cases; the failures, one line each."""
    failures: list[str] = []
    counts: Counter[str] = Counter()
    watch = Watch()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as temporary:
        whole = {}
        for number, target in enumerate(TARGETS):
            folder = Path(temporary) / "whole" / str(number)
            folder.mkdir(parents=True)
            whole[target] = (folder, target.make(folder).relative_to(folder))
            outcome, line = judge(target, folder / whole[target][1], watch)
            if outcome != "answered":
                failures.append(f"{target.name}, as it was: {line}")
                show(failures[-1])
        for case in range(cases):
            target = TARGETS[case % len(TARGETS)]
            rng = random.Random(f"{seed} {case}")  # any seed gives the same cases everywhere
            folder = Path(temporary) / "case"
            source, name = whole[target]
            shutil.copytree(source, folder)
            way = change(folder / name, rng)
            outcome, line = judge(target, folder / name, watch)
            counts[outcome] += 1
            if outcome == "failed":
                failures.append(f"case {case} of seed {seed}, {target.name}, {way}: {line}")
                show(failures[-1])
            shutil.rmtree(folder)
    show(", ".join(f"{counts[name]} {name}" for name in ("refused", "answered", "failed")))
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    # A reader that asks for more fails by an error and does not take the machine with it.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    start = time.perf_counter()
    failures = run(options.cases, options.seed)
    print(f"{options.cases} cases of {len(TARGETS)} readers in {time.perf_counter() - start:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
