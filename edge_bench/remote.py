"""Running commands of this package on another machine, and bringing back what they write.

The device works on while nobody is connected. A connection that is lost is made again, and a
command that was stopped goes on where it was. Nothing stays on the device in the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shlex
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

from edge_bench.errors import BundleError
from edge_bench.files import write_whole
from edge_bench.job import ENDED, ENDING, LOST, OUTPUTS, PRINTED, RUNNING, unpack
from edge_bench.reading import read_json, read_text, sha256
from edge_bench.ssh import Connection, ConnectionLostError, Host, RemoteError

Result = TypeVar("Result")
Say = Callable[[str], None]

OLDEST_PYTHON = (3, 10)
PACKAGES = ("numpy", "onnxruntime", "tensorrt", "openvino", "torch")
_NOT_FOUND = 127
# How long a device may be out of reach before the command gives up; it can be started again.
PATIENCE_S = 600.0
_LONGEST_WAIT_S = 15.0
# What comes from a device is not trusted.
_NO_RESULT = (tarfile.TarError, BundleError, OSError, LookupError, TypeError, ValueError)

# Run by the device before this package is there.
_PROBE = """
import json, sys
from importlib.util import find_spec
print(json.dumps([sys.version_info[:2], [name for name in sys.argv[1:] if find_spec(name)]]))
"""
_UNPACK = """
import sys, tarfile
tarfile.open(fileobj=sys.stdin.buffer, mode="r|").extractall(sys.argv[1])
"""


@dataclass(frozen=True)
class Step:
    """A command on the device, as what follows `python`. An optional one may fail."""

    arguments: tuple[str, ...]
    optional: bool = False


@dataclass(frozen=True)
class Job:
    """What is run on a device.

    Attributes:
        files: The files that it needs, by their names below the folder `in`.
        steps: Its commands, which are run one after the other in a folder that holds `in` and
            `out`.
        results: Where the text files that it leaves in `out` are written to here.
    """

    files: Mapping[str, Path]
    steps: tuple[Step, ...]
    results: Mapping[str, Path]


def run_on(
    host: Host,
    job_for: Callable[[Sequence[str]], Job],
    say: Say,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[int, str]:
    """Run a job on a device, and write its results here.

    Args:
        host: The device.
        job_for: Makes the job, given those of `PACKAGES` that the device has.
        say: Called with each line that the job writes to stderr, and with what happens to the
            connection.
        clock: Seconds since a fixed moment.
        sleep: Waits for so many seconds.

    Returns:
        The exit code of the job, and what it wrote to stdout.

    Raises:
        RemoteError: The device cannot be reached, lacks something, or sends what it should not.
    """
    with Connection(host) as connection:
        wanted = job_for(_packages(connection))
        device = _Device(connection, wanted)
        patiently = _Patience(say, clock, sleep)
        try:
            patiently(device.install)
            patiently(device.send)
            patiently(device.start)
            _follow(device, patiently, say)
            result = patiently(device.fetch)
        except ConnectionLostError as error:
            raise RemoteError(
                f"{error}; the device works on, and the same command brings the result"
            ) from error
        except BaseException:
            device.clean_up(stop=True)
            raise
        device.clean_up(stop=False)
        return result


class _Device:
    """The folder of one job on the device, which its content names."""

    def __init__(self, connection: Connection, job: Job) -> None:
        self._connection, self._host, self._job = connection, connection.host, job
        self._code = _own_code()
        self._digests = {name: sha256(path) for name, path in job.files.items()}
        self._steps = json.dumps({"steps": [asdict(step) for step in job.steps]}).encode()
        content = json.dumps(self._digests, sort_keys=True).encode() + self._steps
        key = hashlib.sha256(self._code + content).hexdigest()[:16]
        self.folder = f".edge_bench-{key}"

    def install(self) -> None:
        """Copy this package to the device."""
        code = shlex.quote(f"{self.folder}/code")
        python = shlex.quote(self._host.python)
        script = f"umask 077; mkdir -p {code} && {python} -c {shlex.quote(_UNPACK)} {code}"
        self._run(script, self._code)

    def send(self) -> None:
        """Copy the files that are not there yet."""
        missing = json.loads(self._run(self._script("missing"), json.dumps(self._digests).encode()))
        if not missing:
            return
        with tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w|") as tar:
                for name in filter(self._job.files.get, missing):
                    tar.add(self._job.files[name].resolve(), arcname=name)
            archive.seek(0)
            self._run(self._script("receive"), archive)

    def start(self) -> None:
        """Begin, unless that was done before."""
        self._run(self._script("start"), self._steps)

    def follow(self, log: _Log) -> int:
        """Go on with the log for a while; returns how the job is."""
        return self._connection.shell(self._script("follow", str(log.size)), hear=log.hear).code

    def fetch(self) -> tuple[int, str]:
        """Write the results here; returns the exit code of the job, and what it printed."""
        archive = self._run(self._script("fetch"))
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            try:
                with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                    for _ in unpack(tar, folder):
                        pass
                code = int(read_json(folder / ENDING)["code"])
                printed = read_text(folder / PRINTED)
                for name, path in self._job.results.items():
                    if code == 0 or (folder / name).exists():  # a table that was begun is kept
                        write_whole(path, read_text(folder / name))
                    printed = printed.replace(f"{OUTPUTS}/{name}", str(path))
            except _NO_RESULT as error:
                raise RemoteError(f"{self._host.address} sent no result: {error}") from error
        return code, printed

    def clean_up(self, *, stop: bool) -> None:
        """Leave the device as it was, if it can be reached."""
        folder = shlex.quote(self.folder)
        ending = f"{self._script('stop')}; " if stop else ""
        with contextlib.suppress(ConnectionLostError):
            self._connection.shell(f"({ending}:); rm -rf {folder}")

    def _run(self, script: str, sent: IO[bytes] | bytes = b"") -> bytes:
        answer = self._connection.shell(script, sent)
        if answer.code:
            raise RemoteError(f"{self._host.address}: {answer.last}")
        return answer.stdout

    def _script(self, verb: str, *more: str) -> str:
        python = shlex.quote(self._host.python)
        arguments = shlex.join(["-m", "edge_bench.job", verb, ".", *more])
        return (
            f"cd {shlex.quote(self.folder)} && PYTHONPATH=code PYTHONDONTWRITEBYTECODE=1 "
            f"{python} {arguments}"
        )


class _Patience:
    """Calls something, and again while the connection fails, for a limited time."""

    def __init__(
        self, say: Say, clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        self._say, self._clock, self._sleep = say, clock, sleep

    def __call__(self, call: Callable[[], Result]) -> Result:
        lost_at, wait = None, 1.0
        while True:
            try:
                return call()
            except ConnectionLostError as error:
                now = self._clock()
                if lost_at is None:
                    lost_at = now
                    self._say(f"{error}; trying again for {PATIENCE_S / 60:g} minutes")
                if now - lost_at > PATIENCE_S:
                    raise
            self._sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_S)


class _Log:
    """What a job has said so far, which goes on in whole lines."""

    def __init__(self, say: Say) -> None:
        self._say, self._rest, self.size, self.last = say, b"", 0, ""

    def hear(self, piece: bytes) -> None:
        self.size += len(piece)
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self.last = line.decode(errors="replace")
            self._say(self.last)


def _follow(device: _Device, patiently: _Patience, say: Say) -> None:
    """Repeat here what the job says there, until it has ended.

    Raises:
        RemoteError: It was killed.
    """
    log = _Log(say)
    while (how := patiently(partial(device.follow, log))) == RUNNING:
        pass
    if how == LOST:
        raise RemoteError(
            f"the device ended the job without a result ({log.last or 'it said nothing'}); "
            "run the same command again"
        )
    if how != ENDED:
        raise RemoteError(f"the job cannot be followed any more: {log.last}")


def _packages(connection: Connection) -> tuple[str, ...]:
    """Those of `PACKAGES` that the device has.

    Raises:
        RemoteError: It has no suitable Python, no numpy, or no runtime.
    """
    host = connection.host
    there = f"{host.python} on {host.address}"
    script = shlex.join([host.python, "-c", _PROBE, *PACKAGES])
    answer = connection.shell(script)
    if answer.code == _NOT_FOUND:
        raise RemoteError(f"there is no {there}; name the one to use", setting="python")
    try:
        version, packages = json.loads(answer.stdout)
        found = tuple(int(part) for part in version), tuple(str(name) for name in packages)
    except (ValueError, TypeError):
        raise RemoteError(f"{there} does not run: {answer.last}") from None
    if found[0] < OLDEST_PYTHON:
        wanted, has = (".".join(map(str, number)) for number in (OLDEST_PYTHON, found[0]))
        raise RemoteError(f"{there} is {has}; {wanted} or newer is needed", setting="python")
    if "numpy" not in found[1] or len(found[1]) == 1:
        lacks = "a runtime" if "numpy" in found[1] else "numpy"
        raise RemoteError(
            f"{there} lacks {lacks}; run `pip install numpy onnxruntime` there, or name another",
            setting="python",
        )
    return found[1]


def _own_code() -> bytes:
    """This package as a tar archive, equal for equal code."""
    package = Path(__file__).parent
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path in sorted(package.iterdir()):
            if path.suffix in (".py", ".json"):
                entry = tarfile.TarInfo(f"{package.name}/{path.name}")
                entry.size = path.stat().st_size
                with path.open("rb") as file:
                    archive.addfile(entry, file)
    return stream.getvalue()
