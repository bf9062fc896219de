"""Work on a Ray cluster, by actors that hold what they work with, and that may die."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

from nas_gan.devices import full_float32
from nas_gan.errors import WorkerError
from nas_gan.workers.executors import Item, Result
from nas_gan.workers.packing import Part, pack, unpack
from nas_gan.workers.placement import Wanted, n_workers_of, worker_device

# How many workers one item may cost before it is the item's fault.
MAX_DEATHS = 3
# How long a whole cluster may take to start its first worker.
START_S = 300.0
# Functions whose parts stay in the object store: a search alternates between about as many.
SHARED_FUNCTIONS = 4
# Functions that a worker keeps ready: each holds a generator of its own.
HELD_FUNCTIONS = 2


class Worker:
    """The process of one worker: what it was sent once, ready for many items.

    Args:
        threads: CPU threads of torch.
        mixed: whether other workers have another kind of device.
        cuda_available: whether torch can use a GPU here.
    """

    def __init__(self, threads: int, mixed: bool, cuda_available: Callable[[], bool]) -> None:
        torch.set_num_threads(threads)
        self._cuda_available = cuda_available
        self._device = ""
        self._functions: dict[str, Callable[[Any], Any]] = {}
        self._kept: dict[str, Any] = {}
        self._rounding = full_float32(mixed)
        self._rounding.__enter__()

    def start(self) -> tuple[dict[str, str], str | None]:
        """Find the device; the versions on which results depend, and why this cannot work."""
        import ray

        try:
            self._device = worker_device(ray.get_gpu_ids(), self._cuda_available())
        except WorkerError as error:
            return _versions(), str(error)
        return _versions(), None

    def call(self, name: str, message: list[Any], parts: Mapping[str, Any], item: Any) -> Any:
        """`(True, result)` of the function for one item, or `(False, error)`.

        Args:
            name: the function's name; a function of that name may be here already.
            message: the reference to its message.
            parts: references to its parts, by name.
            item: the item.
        """
        try:
            return True, self._function(name, message, parts)(item)
        except Exception as error:
            return False, _sendable(error)

    def _function(
        self, name: str, message: list[Any], parts: Mapping[str, Any]
    ) -> Callable[[Any], Any]:
        import ray

        function = self._functions.pop(name, None)
        if function is None:
            while len(self._functions) >= HELD_FUNCTIONS:
                self._functions.pop(next(iter(self._functions)))
            arrays: dict[str, Part] = dict(zip(parts, ray.get(list(parts.values())), strict=True))
            function = unpack(ray.get(message[0]), arrays, self._kept, self._device)
        self._functions[name] = function  # the last one used is the last one to go
        return function


@dataclass
class _Place:
    """One worker as the driver sees it.

    Attributes:
        actor: the process.
        gpus: the GPUs that are reserved for it.
        pending: what it was asked last and has not answered; None if it is idle.
        job: the index of the item that it works on; None while it starts.
    """

    actor: Any
    gpus: float
    pending: Any
    job: int | None = None


class RayExecutor:
    """Runs items on actors of a Ray cluster, each of which takes the next item when it is free.

    A function is sent once, and what it shares with earlier ones is not sent again. A worker that
    dies, alone or with its node, is replaced, and its item goes to another one. Results do not
    depend on the workers, if all of them are of one kind. Between a GPU and a CPU they differ by
    rounding; a function whose class says `trains`, since training makes rounding grow, runs on the
    workers with a GPU only.

    Args:
        n_workers: workers to start; as many as the cluster has room for if None.
        threads: CPU threads of a worker, for which as many CPUs are reserved.
        gpus: GPUs reserved for a worker; several share one if it is a fraction.
        cpu_workers: workers to start without a GPU, beside those with one.
        cuda_available: whether torch can use a GPU, asked on each worker that has one.
        address: `auto` for the running cluster, or a new one on this machine if there is none;
            `local` for a new one in any case; or HOST:PORT of the cluster's head.

    Raises:
        WorkerError: Ray is not installed, there is no such cluster, or it has no room for the
            workers.
    """

    def __init__(
        self,
        n_workers: int | None = None,
        *,
        threads: int = 1,
        gpus: float = 0.0,
        cpu_workers: int = 0,
        cuda_available: Callable[[], bool] = torch.cuda.is_available,
        address: str = "auto",
    ) -> None:
        self._ray = _import_ray()
        self._connected = _connect(self._ray, address)
        self._places: list[_Place] = []
        self._shared: deque[dict[str, Any]] = deque(maxlen=SHARED_FUNCTIONS)
        self._actor = self._ray.remote(num_cpus=threads)(Worker)
        self._arguments = (threads, cpu_workers > 0, cuda_available)
        self._gpus = gpus
        try:
            wanted = Wanted(n_workers, threads, gpus, cpu_workers)
            self.n_trainers = n_workers_of(wanted, self._ray.nodes())
        except BaseException:
            self.close()
            raise
        self.n_workers = self.n_trainers + cpu_workers
        # They start now, while the caller is still preparing what they will be sent.
        each = [gpus] * self.n_trainers + [0.0] * cpu_workers
        self._places = [self._start(gpus) for gpus in each]

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, and leave the cluster if this executor has joined it."""
        for place in self._places:
            self._end(place)
        self._places = []
        self._shared.clear()
        if self._connected:
            self._ray.shutdown()
            self._connected = False

    def run(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[Item, Result]]:
        """Pairs of item and result, in the order in which they finish.

        Raises:
            WorkerError: an item ended several workers, or no worker can be started.
        """
        if not items:
            return
        name, message, parts = self._share(function)
        waiting, deaths = deque(range(len(items))), [0] * len(items)
        unfinished = len(items)
        trains = getattr(type(function), "trains", False)
        able = [place for place in self._places if place.gpus == self._gpus or not trains]
        try:
            while unfinished:
                for place in able:
                    if place.pending is None and waiting:
                        place.job = waiting.popleft()
                        place.pending = place.actor.call.remote(
                            name, message, parts, items[place.job]
                        )
                place = self._next_answer()
                job = place.job
                try:
                    answer = self._ray.get(place.pending)
                except self._ray.exceptions.RayTaskError as error:  # it could not be understood
                    raise WorkerError(_not_understood(error)) from error
                except self._ray.exceptions.RayError as error:
                    self._replace(place)
                    if job is not None:
                        deaths[job] += 1
                        _check_deaths(deaths[job], items[job], error)
                        waiting.appendleft(job)
                    continue
                place.pending, place.job = None, None
                if job is None:
                    _check_start(*answer)
                    self._n_failed_starts = 0
                    continue
                succeeded, result = answer
                if not succeeded:
                    raise result
                unfinished -= 1
                yield items[job], result
        finally:  # after an error, or if nobody wants the rest
            for place in self._places:
                if place.job is not None:
                    self._end(place)
                    self._replace(place)

    # How many workers in a row have died before they were ready.
    _n_failed_starts = 0

    def _share(self, function: Callable[..., Any]) -> tuple[str, list[Any], dict[str, Any]]:
        """Put a function into the object store, apart from what is there: name, message, parts."""
        packed = pack(function)
        known = {name: ref for parts in self._shared for name, ref in parts.items()}
        parts = {
            name: known[name] if name in known else self._ray.put(part)
            for name, part in packed.parts.items()
        }
        self._shared.append(parts)
        name = hashlib.blake2b(packed.message, digest_size=16).hexdigest()
        # In a list, or Ray would send the text itself with every call.
        return name, [self._ray.put(packed.message)], parts

    def _start(self, gpus: float) -> _Place:
        actor = self._actor.options(num_gpus=gpus).remote(*self._arguments)
        return _Place(actor, gpus, actor.start.remote())

    def _replace(self, place: _Place) -> None:
        """Start another worker in place of one that is dead.

        Ray can restart an actor itself, but fails all calls until it has; calls to a new one wait.
        """
        if place.job is None:
            self._n_failed_starts += 1
            if self._n_failed_starts > MAX_DEATHS * self.n_workers:
                raise WorkerError(
                    f"{self._n_failed_starts} workers in a row died while they started; see the "
                    "logs of Ray, by default in /tmp/ray/session_latest/logs"
                )
        fresh = self._start(place.gpus)
        place.actor, place.pending, place.job = fresh.actor, fresh.pending, None

    def _end(self, place: _Place) -> None:
        with contextlib.suppress(Exception):  # whatever has happened to it
            self._ray.kill(place.actor)

    def _next_answer(self) -> _Place:
        """The next worker that has answered or died."""
        asked = {place.pending: place for place in self._places if place.pending is not None}
        working = any(place.job is not None for place in self._places)
        done, _ = self._ray.wait(list(asked), num_returns=1, timeout=None if working else START_S)
        if not done:
            raise WorkerError(
                f"no worker has started within {START_S:g} s; `ray status` says what the cluster "
                "is short of"
            )
        return asked[done[0]]


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise WorkerError(
            'needs Ray, which is not installed: pip install "ard-gan[ray]"', setting="executor"
        ) from error
    return ray


def _connect(ray: Any, address: str) -> bool:
    """Join or start a cluster; False if this process is in one already."""
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would call home
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it would warn of a change
    # Ray would put its workers behind every other process of the machine.
    os.environ.setdefault("RAY_worker_niceness", "0")
    options = {"log_to_driver": False, "configure_logging": False, "logging_level": "error"}
    with own_signals():
        try:
            # None is the running cluster, or a new one if there is none.
            ray.init(address=None if address == "auto" else address, **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise WorkerError(
                f"is {address!r}, where no Ray cluster answers ({reason}); start one "
                "by Ray's own command, or use local",
                setting="ray_address",
            ) from error
    return True


@contextlib.contextmanager
def own_signals() -> Iterator[None]:
    """What a signal does here afterwards is what it did before; Ray would end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_deaths(n_deaths: int, item: object, error: Exception) -> None:
    if n_deaths < MAX_DEATHS:
        return
    text = str(item)
    shown = text if len(text) <= 120 else f"{text[:117]}..."
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    raise WorkerError(
        f"{n_deaths} workers died over one and the same item, {shown} ({reason}); if they ran out "
        "of memory, use a smaller batch size or fewer workers on a node"
    ) from error


def _not_understood(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return (
        f"a worker cannot read what it was sent ({lines[-1].strip()}); every node needs the same "
        "packages as this one"
    )


def _versions() -> dict[str, str]:
    return {
        "Python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "torch": str(torch.__version__),
    }


def _check_start(found: Mapping[str, str], refused: str | None) -> None:
    if refused is not None:
        raise WorkerError(refused)
    here = _versions()
    for name, version in here.items():
        if found.get(name) != version:
            raise WorkerError(
                f"a worker has {name} {found.get(name)}, and this process {version}: scores would "
                "depend on the worker; install the same version on every node"
            )


def _sendable(error: Exception) -> Exception:
    """The error itself if it can be sent, or else one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:
        return WorkerError(f"{type(error).__name__}: {error}")
    return error
