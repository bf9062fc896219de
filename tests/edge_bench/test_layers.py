from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edge_bench.cuda import Cuda, open_cuda
from edge_bench.device import describe_device
from edge_bench.errors import BundleError, InvalidValueError, RunnerError
from edge_bench.layer_table import COLUMNS, LayerTime, to_csv
from edge_bench.layer_timing import (
    LayerFolder,
    LayerModel,
    TensorRTLayer,
    build_engine,
    load_folder,
    time_layers,
)
from edge_bench.layers import main
from edge_bench.tensorrt_runner import _Buffers
from edge_bench.timing import TimingPlan

QUICK = TimingPlan(runs=20, warmup=2, duration_s=0, min_warmup_s=0, max_warmup_s=0)
FAST = ["--runs", "10", "--duration", "0", "--runner", "onnxruntime"]
ROW = LayerTime("linear 8x4", "dense", 1, 1.5, 1.0, 2.0, "a runtime", "a board", 1, "fp32")
MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path, make_model: Callable[..., Path]) -> MakeFolder:
    """Layers of the signatures `a` and `b`, a wide dense one and a narrow factorized one each."""

    def make(signatures: str = "ab") -> Path:
        entries = []
        for signature in signatures:
            for choice, width in (("dense", 2048), ("svd(1)", 2)):
                name = f"{signature}{width}.onnx"
                path = make_model(name, latent_dim=16, width=width)
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                entries.append(
                    {"file": name, "sha256": digest, "signature": signature, "choice": choice}
                )
        listed = {"format": 1, "precision": "fp32", "layers": entries}
        (tmp_path / "layers.json").write_text(json.dumps(listed))
        return tmp_path

    return make


def times_of(folder: Path, known: tuple[LayerTime, ...] = (), **options: Any) -> list[LayerTime]:
    settings: dict[str, Any] = dict(
        runner="onnxruntime", threads=1, device=describe_device(), plan=QUICK
    )
    *_, last = time_layers(load_folder(folder), (1, 4), known, **{**settings, **options})
    return list(last)


def ticking(step_ns: int) -> Callable[[], int]:
    ticks: Iterator[int] = iter(range(0, 10**15, step_ns))
    return lambda: next(ticks)


def test_the_command_writes_a_time_for_every_layer_choice_and_batch(
    make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder()
    assert main([str(folder), "--batch", "1", "4", *FAST]) == 0
    rows = list(csv.DictReader((folder / "latency.csv").read_text().splitlines()))
    assert tuple(rows[0]) == COLUMNS
    found = {(row["signature"], row["choice"], row["batch"]) for row in rows}
    assert found == {(s, c, b) for s in "ab" for c in ("dense", "svd(1)") for b in "14"}
    assert {row["runtime"] for row in rows} == {f"onnxruntime {onnxruntime.__version__}"}
    assert capsys.readouterr().out.startswith(f"wrote {folder / 'latency.csv'}: 8 times, 8 of them")


def test_a_layer_of_a_thousand_times_the_work_takes_longer(make_folder: MakeFolder) -> None:
    times = {(t.signature, t.choice, t.batch): t for t in times_of(make_folder("a"))}
    assert times["a", "dense", 4].ci_low > times["a", "svd(1)", 4].ci_high


def test_a_time_is_the_median_in_milliseconds_with_its_interval(make_folder: MakeFolder) -> None:
    for t in times_of(make_folder("a"), clock=ticking(250_000)):
        assert (t.milliseconds, t.ci_low, t.ci_high) == (0.25, 0.25, 0.25)


def test_a_processor_that_slows_down_meanwhile_slows_all_signatures_alike(
    make_folder: MakeFolder,
) -> None:
    now = done = 0.0

    def slower_by_and_by() -> int:
        nonlocal now
        now += 250_000 * (1 + int(3 * done + 1e-9))  # a step more for each third of the work
        return int(now)

    def advance(fraction: float) -> None:
        nonlocal done
        done = fraction

    times = times_of(make_folder("ab"), clock=slower_by_and_by, advance=advance)
    assert len(times) == 8
    for t in times:
        # A visit at each speed: 0.25, 0.5 and 0.75 ms.
        assert (t.milliseconds, t.ci_low, t.ci_high) == pytest.approx((0.5, 0.25, 0.75))


def test_what_is_known_is_not_measured_again(make_folder: MakeFolder) -> None:
    first = times_of(make_folder("a"))
    both = times_of(make_folder("ab"), tuple(first))
    assert both[:4] == first
    assert [t.signature for t in both[4:]] == ["b"] * 4


def test_a_signature_of_which_something_is_missing_is_measured_whole(
    make_folder: MakeFolder,
) -> None:
    folder = make_folder("a")
    known = tuple(replace(t, milliseconds=99.0) for t in times_of(folder))
    assert all(t.milliseconds != 99.0 for t in times_of(folder, known[1:]))
    elsewhere = tuple(replace(t, device="another board") for t in known)
    assert len(times_of(folder, elsewhere)) == 8


def test_times_are_there_after_each_signature(make_folder: MakeFolder) -> None:
    told: list[float] = []
    parts = time_layers(
        load_folder(make_folder()), (1,), (), runner="onnxruntime", threads=1,
        device=describe_device(), plan=QUICK, advance=told.append,
    )  # fmt: skip
    assert [len(times) for times in parts] == [0, 2, 4]
    assert told == sorted(told)
    assert told[-1] == 1.0


@pytest.mark.parametrize("text", ["x\n1\n", to_csv([ROW]).replace("1.5", "slow")])
def test_a_file_that_is_no_table_is_not_overwritten(make_folder: MakeFolder, text: str) -> None:
    path = make_folder("a") / "latency.csv"
    path.write_text(text)
    assert main([str(path.parent), *FAST]) == 1
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "layers.json").unlink(), "no layers.json in this folder"),
        (
            lambda folder: (folder / "a2.onnx").write_bytes(b"cut short"),
            "a2.onnx: not the file that layers.json lists",
        ),
        (lambda folder: (folder / "a2.onnx").unlink(), "a2.onnx: no such file"),
        (lambda folder: (folder / "layers.json").write_text("["), "not a list of layers"),
        (lambda folder: (folder / "layers.json").write_text("{}"), "not a list of layers"),
        (lambda folder: (folder / "layers.json").write_text('{"format": 2}'), "format 2"),
    ],
)
def test_a_broken_folder_is_named(
    make_folder: MakeFolder,
    change: Callable[[Path], object],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make_folder("a")
    change(folder)
    assert main([str(folder), *FAST]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert (err[:7], err.count("\n")) == ("error: ", 1)


def test_a_list_does_not_choose_files_of_other_folders(make_folder: MakeFolder) -> None:
    path = make_folder("a") / "layers.json"
    path.write_text(path.read_text().replace("a2.onnx", "../a2.onnx"))
    with pytest.raises(BundleError, match="not a name inside the bundle"):
        load_folder(path.parent)


def test_bad_settings_are_refused(make_folder: MakeFolder) -> None:
    folder = load_folder(make_folder("a"))
    settings: dict[str, Any] = dict(threads=1, device=describe_device(), plan=QUICK)
    with pytest.raises(InvalidValueError, match="batch takes every size once"):
        list(time_layers(folder, (1, 1), (), runner="auto", **settings))
    with pytest.raises(RunnerError, match="runner 'tpu' is not known"):
        list(time_layers(folder, (1,), (), runner="tpu", **settings))


def test_the_command_runs_as_a_module_and_goes_on(make_folder: MakeFolder) -> None:
    command = [sys.executable, "-W", "error", "-m", "edge_bench.layers", str(make_folder()), *FAST]
    for new in (4, 0):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"4 times, {new} of them new" in done.stdout


def test_tensorrt_waits_once_for_several_runs_and_copies_nothing(tmp_path: Path) -> None:
    done: list[str] = []

    def call(name: str, *_: int) -> tuple[int, int]:
        done.append(name)
        return 0, 0

    x = np.ones((1, 4), np.float32)
    layer = TensorRTLayer(tmp_path / "x.engine")
    layer._cuda = Cuda(call, str)

    def execute(stream: int) -> bool:
        done.append("run")
        return True

    layer._context = SimpleNamespace(execute_async_v3=execute)
    layer._buffers, layer._bound = {(x.shape,): _Buffers((1,), 2, x)}, (x.shape,)
    layer.infer(x)
    assert done == ["run"] * layer.calls + ["cudaStreamSynchronize"]
    done.clear()
    layer._cuda = None  # nothing to free


def test_tensorrt_without_its_package_says_where_it_comes_from(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(RunnerError, match="on a Jetson it comes with JetPack"):
        times_of(make_folder("a"), runner="tensorrt")


@pytest.mark.gpu
@pytest.mark.tensorrt
def test_tensorrt_times_layers_on_a_gpu(make_folder: MakeFolder) -> None:
    pytest.importorskip("tensorrt", reason="tensorrt is not installed")
    try:
        open_cuda()
    except RunnerError as error:
        pytest.skip(str(error))
    times = times_of(make_folder("a"), runner="tensorrt")
    assert len(times) == 4
    assert all(0 < t.ci_low <= t.milliseconds <= t.ci_high for t in times)


@pytest.mark.tensorrt
def test_tensorrt_builds_an_engine_of_a_layer(make_model: Callable[..., Path]) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    path = make_model("layer.onnx")
    assert len(build_engine(trt, path, (1, 4))) > 100
    path.write_bytes(b"not ONNX")
    with pytest.raises(RunnerError, match=r"layer.onnx: TensorRT .* cannot read it"):
        build_engine(trt, path, (1, 1))


def test_layers_are_grouped_by_signature() -> None:
    models = [LayerModel(s, c, Path(f"{s}{c}")) for c in ("dense", "svd(1)") for s in "ab"]
    groups = LayerFolder("fp32", tuple(models)).groups()
    assert [[(m.signature, m.choice) for m in group] for group in groups] == [
        [("a", "dense"), ("a", "svd(1)")],
        [("b", "dense"), ("b", "svd(1)")],
    ]
