"""A folder of single layers, dense and factorized, and how long each takes on this machine.

`python -m ard.latency` writes the folder: ONNX files, and `layers.json`, which says which layer
each of them is and how it was factorized.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_bench.asked import RunSettings
from edge_bench.device import DeviceDescription
from edge_bench.errors import BundleError, InvalidValueError, RunnerError
from edge_bench.inputs import InputSpec, draw_feed
from edge_bench.layer_table import LayerTime, Place, key_of
from edge_bench.reading import AGAIN, inside, read_json, sha256_of_file
from edge_bench.registry import check_runner
from edge_bench.runners import OnnxRuntimeRunner
from edge_bench.statistics import ratio_of_medians
from edge_bench.tensorrt_runner import TensorRTRunner
from edge_bench.timing import Clock, TimingPlan, measure

# Layers are built for TensorRT on the spot, and the others read bundles only.
RUNNERS = ("auto", "onnxruntime", "tensorrt")

FILE = "layers.json"
FORMAT = 1
# A layer on a GPU takes microseconds, and waiting for it takes as long again: so many per wait.
CALLS_PER_WAIT = 10
RESAMPLES = 200
SEED = 0
# The speed of a processor drifts within seconds, and a model that is loaded again lies elsewhere in
# memory. So each layer is loaded and timed in several visits, far apart. An engine takes seconds to
# build, and the clocks of a GPU can be locked.
VISITS = {"onnxruntime": 3, "tensorrt": 1}
WORKSPACE_MIB = 512


@dataclass(frozen=True)
class LayerModel:
    """One ONNX file: a layer of this signature, whose choice is `dense` or a factorization.

    `sha256` is its digest as listed; None if the list is of an earlier version, which had none.
    """

    signature: str
    choice: str
    path: Path
    sha256: str | None = None


@dataclass(frozen=True)
class LayerFolder:
    """The models of a folder, and the precision they were written in."""

    precision: str
    models: tuple[LayerModel, ...]

    def groups(self) -> tuple[tuple[LayerModel, ...], ...]:
        """The models of each signature, including the dense one; they take turns."""
        names = dict.fromkeys(model.signature for model in self.models)
        return tuple(tuple(m for m in self.models if m.signature == name) for name in names)


class LayerRunner(contextlib.AbstractContextManager["LayerRunner"], Protocol):
    """A loaded layer; one `infer` runs it `calls` times and returns when all of them are done."""

    calls: int

    @property
    def inputs(self) -> tuple[InputSpec, ...]: ...

    def infer(self, *feed: NDArray[np.generic]) -> NDArray[np.generic]: ...


class OnnxRuntimeLayer(OnnxRuntimeRunner):
    """A layer in ONNX Runtime on the CPU."""

    calls = 1


class TensorRTLayer(TensorRTRunner):
    """A layer in TensorRT; its data stays on the device, as it does between layers of a network."""

    calls = CALLS_PER_WAIT

    def infer(self, *feed: NDArray[np.generic]) -> NDArray[np.generic]:
        """Run the engine on what the first call with these shapes sent; nothing is copied back."""
        cuda = self._open()
        known = self._bound
        buffers = self._bind(cuda, feed)
        if self._bound != known:
            self._sent = self._send(cuda, buffers, feed)  # lives until the stream is done
        for _ in range(self.calls):
            self._execute(feed)
        cuda.synchronize(self._stream)
        return buffers.host


def load_folder(folder: Path) -> LayerFolder:
    """Read `layers.json` and check that every file is there.

    Raises:
        BundleError: it is not such a folder, or a file is missing.
    """
    path = folder / FILE
    try:
        listed: Any = _read_list(path)
        if listed["format"] != FORMAT:
            raise BundleError(
                f"{path}: format {listed['format']!r}, this program reads format {FORMAT}"
            )
        models = tuple(
            LayerModel(
                str(entry["signature"]),
                str(entry["choice"]),
                inside(folder, entry["file"], path),
                None if "sha256" not in entry else str(entry["sha256"]),
            )
            for entry in listed["layers"]
        )
        precision = str(listed["precision"])
    except FileNotFoundError:
        raise BundleError(
            f"{folder}: no {FILE} in this folder; `python -m ard.latency` writes such folders"
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{path}: not a list of layers ({error!r}); write it again") from None
    for model in models:
        if not model.path.is_file():
            raise BundleError(f"{model.path}: no such file in the folder; copy it again")
        if model.sha256 not in (None, sha256_of_file(model.path)):
            raise BundleError(f"{model.path}: not the file that {FILE} lists; copy it again")
    if not models:
        raise BundleError(f"{path}: lists no layers; write it again")
    return LayerFolder(precision, models)


def _read_list(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except BundleError as error:
        reason = str(error).removesuffix(f"; {AGAIN}")
        raise BundleError(f"{reason}, so it is not a list of layers; write it again") from error


def time_layers(
    folder: LayerFolder,
    batches: Sequence[int],
    known: Sequence[LayerTime],
    *,
    runner: str,
    threads: int,
    device: DeviceDescription,
    plan: TimingPlan,
    clock: Clock = time.perf_counter_ns,
    advance: Callable[[float], None] = lambda fraction: None,
) -> Iterator[tuple[LayerTime, ...]]:
    """Measure the layers; after each signature, yield all times so far, including the `known` ones.

    A layer and its factorizations are loaded at once and take turns, so that a busy machine slows
    all of them alike. On a CPU all signatures are visited three times, for a third of the runs
    each, and a signature is finished in the last visit. A signature is skipped if all its times are
    known. If one is missing, all are measured again, because only times of one session are
    comparable.

    Raises:
        RunnerError: the runtime is missing, or refused a model.
    """
    if len(set(batches)) != len(batches):
        raise InvalidValueError(f"takes every size once; got {list(batches)}", setting="batch")
    runner = _resolve(runner)
    place = Place(_runtime(runner), _device_name(device, runner), threads, folder.precision)
    times = {row.key: row for row in known}
    yield tuple(times.values())
    missing = [
        group
        for group in folder.groups()
        if not times.keys()
        >= {key_of(m.signature, m.choice, batch, place) for m in group for batch in batches}
    ]
    visits = VISITS[runner]
    a_visit = replace(plan, repeats=visits).share()
    seen: list[list[Sequence[LayerTime]]] = [[] for _ in missing]
    for done, (visit, number) in enumerate(itertools.product(range(visits), range(len(missing)))):

        def advance_within(fraction: float, done: int = done) -> None:
            advance((done + fraction) / (visits * len(missing)))

        group = missing[number]
        visited = _visit(group, batches, place, runner, a_visit, clock, advance_within)
        seen[number].append(tuple(visited))
        if visit == visits - 1:
            times.update(
                {rows[0].key: _over_visits(rows) for rows in zip(*seen[number], strict=True)}
            )
            yield tuple(times.values())
    advance(1.0)


def _over_visits(rows: Sequence[LayerTime]) -> LayerTime:
    """The mean of the times of a layer in all visits, with an interval that holds all of theirs."""
    return replace(
        rows[0],
        milliseconds=statistics.fmean(row.milliseconds for row in rows),
        ci_low=min(row.ci_low for row in rows),
        ci_high=max(row.ci_high for row in rows),
    )


def _visit(
    group: Sequence[LayerModel],
    batches: Sequence[int],
    place: Place,
    runner: str,
    plan: TimingPlan,
    clock: Clock,
    advance: Callable[[float], None],
) -> Iterator[LayerTime]:
    with contextlib.ExitStack() as opened:
        runners: list[LayerRunner] = []
        for model in group:
            layer = _open(model.path, runner, place.threads, batches, opened)
            runners.append(opened.enter_context(layer))
        rng = np.random.default_rng(SEED)
        largest = max(batches)
        inputs = [draw_feed(r.inputs, largest, SEED, None, {}) for r in runners]
        for timing in measure(runners, inputs, batches, clock, plan, advance):
            # (rounds, block) of one call each
            us = timing.times_ns / 1e3 / runners[timing.runner].calls
            # The ratio to a constant microsecond is the median, with its interval over rounds.
            median = ratio_of_medians(us, np.ones_like(us), rng, resamples=RESAMPLES)
            model = group[timing.runner]
            in_ms = (median.value / 1e3, median.low / 1e3, median.high / 1e3)
            yield LayerTime(model.signature, model.choice, timing.batch, *in_ms, *astuple(place))


def _resolve(runner: str) -> str:
    check_runner(runner, RUNNERS)
    if runner != "auto":
        return runner
    return "onnxruntime" if importlib.util.find_spec("tensorrt") is None else "tensorrt"


def _runtime(runner: str) -> str:
    try:
        return f"{runner} {importlib.import_module(runner).__version__}"
    except ImportError:
        raise RunnerError(
            f"{runner} is not installed; "
            + (
                "install it with: pip install onnxruntime"
                if runner == "onnxruntime"
                else "on a Jetson it comes with JetPack; elsewhere use the onnxruntime runner"
            )
        ) from None


def _device_name(device: DeviceDescription, runner: str) -> str:
    processor = device.gpu if runner == "tensorrt" else device.cpu
    name = device.model or processor or device.machine
    return f"{name}, {device.nvpmodel}" if device.nvpmodel else name


def _open(
    path: Path, runner: str, threads: int, batches: Sequence[int], opened: contextlib.ExitStack
) -> LayerRunner:
    if runner == "onnxruntime":
        return OnnxRuntimeLayer(path, RunSettings(threads))
    tensorrt = importlib.import_module("tensorrt")
    engine = build_engine(tensorrt, path, (min(batches), max(batches)))
    # An engine fits only this device and this version, so it is not kept.
    folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
    (folder / f"{path.stem}.engine").write_bytes(engine)
    return TensorRTLayer(folder / f"{path.stem}.engine")


def build_engine(trt: Any, path: Path, batches: tuple[int, int]) -> bytes:
    """A strongly typed engine of a layer for these batch sizes; `trt` is the `tensorrt` module.

    Raises:
        RunnerError: TensorRT refuses the model.
    """
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    # TensorRT 10 needs the flag; from 11 on, every network takes its types from the graph.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(path.read_bytes()):
        reason = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise RunnerError(f"{path}: TensorRT {trt.__version__} cannot read it: {reason}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_MIB << 20)
    profile = builder.create_optimization_profile()
    tensor = network.get_input(0)
    least, most = batches
    rest = tuple(tensor.shape)[1:]
    profile.set_shape(tensor.name, (least, *rest), (most, *rest), (most, *rest))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RunnerError(f"{path}: TensorRT {trt.__version__} built no engine from it")
    return bytes(engine)
