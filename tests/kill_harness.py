"""Commands that are killed at some moment and started again, for `test_kills` and `benchmarks`.

A command starts in a process that is forked from one with everything imported. So it does its work
from the first moment on, and a moment drawn at random is one of that work.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
IMPORTED = (
    "ard.compress", "ard.pareto", "ard.sweep", "ard.report.page", "ard.report.plots",
    "export.__main__", "nas_gan.search", "nas_gan.train", "onnx", "onnxruntime", "onnxsim",
    "matplotlib.backends.backend_agg", "scipy.linalg", "torch.utils.tensorboard.writer",
)  # fmt: skip


# -- starting and killing


class Nursery:
    """Starts commands, each in a process of its own that has everything imported."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"},
        )

    def start(
        self,
        arguments: Sequence[str | Path],
        log: Path,
        *,
        dies_at: int | None = None,
        largest: int | None = None,
        nobody: bool = False,
    ) -> Started:
        """Start a command.

        Args:
            arguments: a module or a .py file, and its arguments.
            log: gets its stderr, and a file beside it the number of its syncs to disk.
            dies_at: at which of these syncs, from 1, it gets SIGKILL; None for never.
            largest: size in bytes at which a file cannot grow any more, as on a full disk.
            nobody: whether it is run by the user nobody, which needs root.
        """
        question = {"start": [*map(str, arguments)], "log": str(log)}
        limits = {"dies_at": dies_at, "largest": largest, "nobody": nobody}
        return Started(self, self._ask(question | limits), log)

    def status(self, pid: int) -> int | None:
        """The exit code of a process, negative for a signal; None while it runs."""
        return self._ask({"status": pid})

    def close(self) -> None:
        self.process.communicate()

    def _ask(self, question: Mapping[str, Any]) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@dataclass(frozen=True)
class Started:
    """A command that runs."""

    nursery: Nursery
    pid: int
    log: Path

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, seconds: float = 600.0) -> int | None:
        """The exit code; None if it still runs after so many seconds."""
        until = time.monotonic() + seconds
        while (code := self.nursery.status(self.pid)) is None and time.monotonic() < until:
            time.sleep(0.003)
        return code


@contextmanager
def nursery() -> Iterator[Nursery]:
    """A nursery for as long as the block lasts."""
    made = Nursery()
    try:
        yield made
    finally:
        made.close()


def serve() -> None:
    """Be the process that has everything imported: fork, and say how the forked ones ended."""
    ended: dict[int, int] = {}
    for name in IMPORTED:
        with contextlib.suppress(ImportError):
            __import__(name)
    for line in sys.stdin:
        question = json.loads(line)
        if "start" in question:
            pid = os.fork()
            if not pid:
                _be(**question)
            answer: int | None = pid
        else:
            pid = question["status"]
            if pid not in ended:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    ended[pid] = os.waitstatus_to_exitcode(status)
            answer = ended.get(pid)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _be(start: list[str], log: str, dies_at: int | None, largest: int | None, nobody: bool) -> None:
    """Run one command in this forked process, and end it."""
    import resource

    code, syncs, sync = 99, 0, os.fsync

    def counted(handle: int) -> None:
        nonlocal syncs
        syncs += 1
        if syncs == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(handle)

    os.fsync = counted  # type: ignore[assignment]
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream, target in ((0, nothing), (1, nothing), (2, handle)):
            os.dup2(target, stream)
        if largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        if nobody:
            # Whatever a command imports late: nobody may not enter a home with a Python in it.
            __import__("torch._dynamo")
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        sys.argv = list(start)
        warnings.simplefilter("ignore")
        if start[0].endswith(".py"):
            runpy.run_path(start[0], run_name="__main__")
        else:
            runpy.run_module(start[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
            Path(f"{log}.syncs").write_text(str(syncs))
        os._exit(code)


# -- what is killed, and what must be the same afterwards


@dataclass(frozen=True)
class Job:
    """A command in a folder of its own.

    Attributes:
        name: what it is called.
        arguments: of the command, given the folder.
        result: what a finished command leaves, in a form that can be compared with `==`.
        prepare: fills the folder before the command starts.
        codes: the exit codes of a finished command.
    """

    name: str
    arguments: Callable[[Path], Sequence[str | Path]]
    result: Callable[[Path], Any]
    prepare: Callable[[Path], None] = lambda folder: None
    codes: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Whole:
    """What an uninterrupted command leaves, and how many seconds and syncs to disk it takes."""

    result: Any
    seconds: float
    syncs: int


def uninterrupted(job: Job, folder: Path, by: Nursery) -> Whole:
    """Run a job without interrupting it."""
    folder.mkdir()
    job.prepare(folder)
    started = time.monotonic()
    finish(job, folder, by)
    seconds = time.monotonic() - started
    syncs = int(log_of(folder).with_name(f"{log_of(folder).name}.syncs").read_text())
    return Whole(job.result(folder), seconds, syncs)


def log_of(folder: Path) -> Path:
    """What a command in this folder says, beside the folder."""
    return folder.with_name(f"{folder.name}.log")


def finish(job: Job, folder: Path, by: Nursery) -> None:
    """Run a job to its end, which must be a good one."""
    log = log_of(folder)
    code = by.start(job.arguments(folder), log).wait()
    assert code in job.codes, f"{job.name}: exit code {code}: {log.read_text()}"


@dataclass(frozen=True)
class Sync:
    """The `number`-th sync to disk of a run, when a file is written and has no name yet."""

    number: int


Moment = float | Sync
"""When a command is killed: after so many seconds, or at one of its syncs."""


def moments(name: str, n: int, whole: Whole, seed: int = 0) -> list[Moment]:
    """`n` random moments of a run, in turn after some seconds and at some sync."""
    rng = random.Random(f"{name} {seed}")
    seconds = [(place + rng.random()) / n * whole.seconds for place in range(n)]
    syncs = [Sync(rng.randint(1, whole.syncs)) for _ in range(n)]
    return [syncs[place] if place % 2 else seconds[place] for place in range(n)]


def check_kills(
    job: Job,
    whole: Whole,
    folder: Path,
    by: Nursery,
    at: Sequence[Moment],
    number: signal.Signals = signal.SIGKILL,
) -> int:
    """Kill a job, start it again and kill it again, and compare its end with the uninterrupted one.

    Args:
        job: what is killed.
        whole: what it leaves if it is not.
        folder: its folder, which must not exist yet and is removed in the end.
        by: what starts it.
        at: when each start is killed; a last one is not.
        number: the signal that it gets after some seconds. At a sync it gets SIGKILL.

    Returns:
        How often the command was still running.
    """
    folder.mkdir()
    job.prepare(folder)
    log = log_of(folder)
    context = f"{job.name}, {number.name} at {at}"
    killed = 0
    for moment in at:
        log.unlink(missing_ok=True)
        if isinstance(moment, Sync):
            code = by.start(job.arguments(folder), log, dies_at=moment.number).wait()
        else:
            started = by.start(job.arguments(folder), log)
            code = started.wait(moment)
            if code is None:
                started.send(number)
                code = started.wait()
        if code not in job.codes:
            check_end(code, signal.SIGKILL if isinstance(moment, Sync) else number, log, context)
            killed += 1
        half = half_written(folder)
        assert not half, f"{context}: half-written: {half}"
    finish(job, folder, by)
    assert not left_over(folder), f"{context}: left over: {left_over(folder)}"
    found = job.result(folder)
    assert found == whole.result, f"{context}: another result: {difference(whole.result, found)}"
    shutil.rmtree(folder)
    return killed


def check_end(code: int | None, number: signal.Signals, log: Path, context: str) -> None:
    """Whether a command has ended as it should by a signal: with its code, and with one line."""
    text = log.read_text() if log.exists() else ""
    if code == -number and not text:  # before the command had begun
        return
    expected = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert code == expected, f"{context}: exit code {code}: {text}"
    assert "Traceback" not in text, f"{context}: {text}"
    if number != signal.SIGKILL:
        last = text.splitlines()[-1]
        assert last.startswith(("terminated: ", "interrupted: ")), f"{context}: {last}"


def left_over(folder: Path) -> list[str]:
    """Hidden files, which are temporary ones and locks, in a folder or beside it."""
    beside = folder.parent.glob(f".{folder.name}*")
    return sorted(str(path) for path in (*folder.rglob(".*"), *beside))


def half_written(folder: Path) -> list[str]:
    """Files that cannot be read, of those that have their names; logs may end in half a line."""
    broken = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.suffix in READERS:
            try:
                READERS[path.suffix](path)
            except Exception as error:
                broken.append(f"{path.relative_to(folder)}: {error!r}")
    return broken


def _read_lines(path: Path) -> None:
    *lines, _torn = path.read_text().split("\n")
    for line in lines:
        json.loads(line)


def _read_tensors(path: Path) -> Any:
    import torch

    return torch.load(path, weights_only=True)


def _read_safetensors(path: Path) -> None:
    from safetensors.torch import load_file

    load_file(path)


def _read_array(path: Path) -> None:
    import numpy as np

    np.load(path)


def _read_picture(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as image:
        image.load()


def _read_graph(path: Path) -> None:
    import onnx

    onnx.checker.check_model(str(path))


def _read_table(path: Path) -> None:
    header, *rows = path.read_text().splitlines()
    assert header
    assert path.read_bytes().endswith(b"\n"), rows[-1:]


READERS: dict[str, Callable[[Path], Any]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".jsonl": _read_lines,
    ".pt": _read_tensors,
    ".safetensors": _read_safetensors,
    ".npy": _read_array,
    ".png": _read_picture,
    ".onnx": _read_graph,
    ".csv": _read_table,
    ".html": lambda path: path.read_text().rstrip().index("</html>"),
}


def difference(expected: Any, found: Any, where: str = "") -> str:
    """Where two results differ first."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in expected.keys() | found.keys():
            if expected.get(key) != found.get(key):
                return difference(expected.get(key), found.get(key), f"{where}/{key}")
    return f"{where}: {str(expected)[:300]} became {str(found)[:300]}"


# -- results


def plain(value: Any) -> Any:
    """A value with its tensors as bytes, which compare as `==` does not."""
    if hasattr(value, "numpy"):
        array = value.detach().numpy()
        return (str(array.dtype), array.shape, array.tobytes())
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def texts(folder: Path, *names: str) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in names}


def tensors(folder: Path, *names: str) -> dict[str, Any]:
    return {name: plain(_read_tensors(folder / name)) for name in names}


def swept(folder: Path) -> dict[str, Any]:
    """The measurements in their order, and the table: equal only if none was made twice."""
    return texts(folder, "journal.jsonl", "sensitivity.csv") | {"files": names(folder)}


def compressed(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "report.json").read_text())
    for name in ("timings", "latency"):
        report.pop(name, None)
    return {
        **swept(folder),
        **texts(folder, "plan.json"),
        **tensors(folder, "compressed.pt"),
        "report": report,
    }


def pareto(folder: Path) -> dict[str, Any]:
    found = {**swept(folder), **texts(folder, "pareto.csv")}
    for path in sorted(folder.glob("*/plan.json")):
        budget = path.parent
        found[budget.name] = {**texts(budget, "plan.json"), **tensors(budget, "compressed.pt")}
    return found


def trained(folder: Path) -> dict[str, Any]:
    return {**logged(folder), **tensors(folder, "ckpt.pt", "state.pt"), "files": names(folder)}


def logged(folder: Path) -> dict[str, Any]:
    from nas_gan.training.log import read_log
    from nas_gan.training.pace import without_pace

    return {"log.jsonl": [without_pace(row) for row in read_log(folder / "log.jsonl").rows]}


def searched(folder: Path) -> dict[str, Any]:
    kept = {**logged(folder), **texts(folder, "genotype.json", "discriminator.json")}
    return {**kept, **tensors(folder, "state.pt"), "files": names(folder)}


def exported(folder: Path) -> dict[str, Any]:
    from export.manifest import verify

    verify(folder / "bundle")
    manifest = json.loads((folder / "bundle" / "manifest.json").read_text())
    return {"manifest": manifest, "files": names(folder)}


def built(folder: Path) -> dict[str, Any]:
    """All but how long it took and the engine's bytes, which must be those of the record."""
    import hashlib

    record = json.loads((folder / "engine.json").read_text())
    engine = (folder / record["engine"]).read_bytes()
    assert record.pop("sha256") == hashlib.sha256(engine).hexdigest()
    assert record.pop("bytes") == len(engine)
    record.pop("seconds")
    return {"record": record, "files": names(folder)}


def names(folder: Path) -> list[str]:
    """The files of a folder but for TensorBoard's, of which every start makes one."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if path.parts[0] != "tensorboard")


# -- jobs


@dataclass(frozen=True)
class Inputs:
    """What the jobs start from: a tiny checkpoint, statistics of no real images, a bundle."""

    checkpoint: Path
    statistics: Path
    bundle: Path | None = None


def make_inputs(folder: Path, by: Nursery) -> Inputs:
    """Write the inputs into a folder."""
    import numpy as np

    from nas_gan.checkpoint import load_checkpoint, save_checkpoint

    run_dir, statistics = folder / "dcgan", folder / "reference.npz"
    run_dir.mkdir()
    options = (
        *SMALL,
        "--threads",
        "1",
        "--steps",
        "3",
        "--sample-every",
        "0",
        "--run-dir",
        run_dir,
    )
    start = Job("training", lambda folder: ("nas_gan.train", *options), trained)
    finish(start, run_dir, by)
    checkpoint = folder / "tiny.pt"
    saved = load_checkpoint(run_dir / "ckpt.pt")
    # After three steps all images are nearly alike, and no factorization would make a difference.
    lively = {k: 8 * t if "conv" in k else t for k, t in saved.generator.items()}
    save_checkpoint(replace(saved, generator=lively), checkpoint)
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((1280, 16))
    np.savez(statistics, mu=rng.uniform(0, 0.2, 1280), sigma=factor @ factor.T / 100, n=17)
    inputs = Inputs(checkpoint, statistics)
    bundle = folder / "bundle"
    bundle.mkdir()
    export = export_job(inputs)
    finish(export, bundle, by)
    return Inputs(checkpoint, statistics, bundle / "bundle")


# The fewest layers of all networks.
SMALL = (
    *("--config", "smoke", "--model", "dcgan", "--gf-dim", "4", "--df-dim", "4"),
    *("--batch-size", "4"),
)


def search_options(inputs: Inputs) -> tuple[str | Path, ...]:
    return (
        inputs.checkpoint, "--reference", inputs.statistics, "--features", "efficientnet-lite0",
        "--samples", "24", "--sweep-samples", "16", "--anchors", "3",
        "--methods", "tucker2", "--fractions", "0.5", "0.2",
    )  # fmt: skip


RECOVERY = (
    *("--recover-steps", "2", "--max-trials", "2"),
    *("--feature-weight", "0", "--polish-steps", "0"),
)


def export_job(inputs: Inputs) -> Job:
    return Job(
        "export",
        lambda folder: (
            "export", inputs.checkpoint, "--out", folder / "bundle", "--samples", "4",
            "--tensorrt-rtx", "off",
        ),
        exported,
    )  # fmt: skip


def jobs(inputs: Inputs, *, bundle: bool = False, threads: int = 1) -> list[Job]:
    """The commands whose runs can be resumed.

    `bundle` lets compress export and time, too; `threads` is what searches and training get.
    """
    count = ("--threads", str(threads))
    options = (*search_options(inputs), *count)

    def copy_bundle(folder: Path) -> None:
        assert inputs.bundle is not None
        shutil.copytree(inputs.bundle, folder, dirs_exist_ok=True)

    def replace_bundle(folder: Path) -> None:
        assert inputs.bundle is not None
        shutil.copytree(inputs.bundle, folder / "bundle")
        (folder / "bundle" / "bench.json").write_text("{}")

    export = export_job(inputs)
    found = [
        Job("sweep", lambda folder: ("ard.sweep", *options, "--run-dir", folder), swept),
        Job(
            "compress",
            lambda folder: (
                "ard.compress", *options, *RECOVERY, "--fid-budget", "300%", "--run-dir", folder,
                *(() if bundle else ("--no-bundle",)),
            ),
            compressed,
            codes=(0, 3),
        ),
        Job(
            "pareto",
            lambda folder: (
                "ard.pareto", *options, *RECOVERY, "--budgets", "100%", "300%", "--run-dir", folder,
            ),
            pareto,
            codes=(0, 3),
        ),
        Job(
            "train",
            lambda folder: (
                # Long enough to overlap with another that starts at the same time.
                "nas_gan.train", *SMALL, *count, "--steps", "60", "--run-dir", folder,
            ),
            trained,
        ),
        Job(
            "search",
            lambda folder: (
                "nas_gan.search", "--config", "search_smoke", "--gf-dim", "2", "--df-dim", "2",
                "--batch-size", "4", "--steps", "3", "--n-critic", "1",
                *count, "--run-dir", folder,
            ),
            searched,
        ),
        Job("export", export.arguments, exported),
        Job("export over a bundle", export.arguments, exported, replace_bundle),
    ]  # fmt: skip
    if can_build():
        found.append(
            Job(
                "build_engine",
                lambda folder: (
                    str(folder / "build_engine.py"), "--bundle", folder, "--module", "tensorrt_rtx",
                ),
                built,
                copy_bundle,
            )
        )  # fmt: skip
    return found


def can_build() -> bool:
    """Whether an engine can be built here."""
    import importlib.util

    return importlib.util.find_spec("tensorrt_rtx") is not None


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    serve()
