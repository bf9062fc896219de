"""The directory in which a run works: a local one, or a local copy that follows to a remote one.

Locks, journals and renames need a local file system. A remote run directory is therefore copied
here at the start, worked in here, and sent whenever something was saved and at the end. Of two
machines that work in one remote directory, the second to write is refused.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from nas_gan.errors import InUseError, NasGanError, RemoteError
from nas_gan.files import PARTIAL, write_json
from nas_gan.locks import LOCK, locked
from nas_gan.reading import Fields, read_json
from nas_gan.remote.addresses import Place, is_remote, open_place, translated
from nas_gan.remote.fetching import copies_of
from nas_gan.remote.listing import RemoteFile, bring, check_room, list_files

# In the local copy: what both sides were like when they were last the same.
RECORD = ".remote.json"
_PROBE = ".probe"
# How often a run is looked at for something to send.
LOOK_S = 5.0
# A journal or a log that grows is sent with the next file that was saved, or after so long.
GROWING_S = 60.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workplace:
    """Where a run works.

    Attributes:
        folder: the local directory.
        address: the remote one that it is sent to; None if there is none.
    """

    folder: Path
    address: str | None = None

    def shown(self, path: Path) -> str:
        """What to call a file of the run: by its address, if the run has one."""
        if self.address is None or not path.is_relative_to(self.folder):
            return str(path)
        inside = path.relative_to(self.folder).as_posix()
        return self.address if inside == "." else f"{self.address}/{inside}"


@contextmanager
def working_in(run_dir: Path, cache: Path | None = None) -> Iterator[Workplace]:
    """Have a run directory for this process alone, wherever it is.

    Args:
        run_dir: a path or an address.
        cache: folder of the local copies of remote directories; that of the user by default.

    Raises:
        InUseError: another process has it, or another machine wrote to it meanwhile.
        RemoteError: it cannot be reached; or at the end, what was not sent, and where it is.
        OSError: it cannot be created or written to.
    """
    if not is_remote(run_dir):
        with locked(run_dir):
            yield Workplace(run_dir)
        return
    place = open_place(run_dir)
    folder = copies_of(place.address, cache) / "run" / PurePosixPath(place.path).name
    with locked(folder):
        mirror = Mirror(place, folder)
        mirror.receive()
        with _following(mirror), _naming(folder, place.address):
            yield Workplace(folder, place.address)


@contextmanager
def _naming(folder: Path, address: str) -> Iterator[None]:
    """Let errors name files of the run as the user does, and not their copies here."""
    try:
        yield
    except NasGanError as error:
        error.message = error.message.replace(str(folder), address)
        error.args = (error.message,)
        raise


@contextmanager
def _following(mirror: Mirror) -> Iterator[None]:
    """Send what is saved inside as it is saved, and everything that is left at the end."""
    ended = threading.Event()
    follower = threading.Thread(target=_follow, args=(mirror, ended), daemon=True)
    follower.start()
    try:
        yield
    except BaseException:
        _end(follower, ended)
        try:
            mirror.send()
        except NasGanError as error:  # what went wrong before is more important
            logger.warning("%s", error)
        raise
    _end(follower, ended)
    mirror.send()


def _end(follower: threading.Thread, ended: threading.Event) -> None:
    ended.set()
    follower.join()


def _follow(mirror: Mirror, ended: threading.Event) -> None:
    said = ""
    while not ended.wait(LOOK_S):
        try:
            if mirror.is_due():
                mirror.send()
            said = ""
        except (NasGanError, OSError) as error:  # the run goes on, and the next look tries again
            if str(error) != said:
                logger.warning("%s", error)
            said = str(error)


@dataclass(frozen=True)
class Known:
    """A file of a run when both sides were last the same.

    Attributes:
        there: its mark on the remote side; None if it was never there.
        here: its size and when it was written, on this side; None if it was never here.
        under_way: `sent` or `brought` while it is on its way, which a kill can end.
    """

    there: str | None = None
    here: tuple[int, int] | None = None
    under_way: str = ""


class Mirror:
    """A local folder and the remote one that it is kept equal to.

    Args:
        place: the remote folder.
        folder: the local one.
        clock: seconds since a fixed moment.
    """

    def __init__(
        self, place: Place, folder: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.place, self.folder, self.clock = place, folder, clock
        self.known = _read_record(folder / RECORD)
        self.sent = clock()

    def receive(self) -> None:
        """Bring what is new there; what is new here, since a run could not send it, stays.

        Raises:
            RemoteError: both sides have changed, or the remote one cannot be read or written.
        """
        theirs, ours = list_files(self.place), _states(self.folder)
        self._try_to_write()
        wanted = [name for name, file in theirs.items() if self._is_newer(name, file, ours)]
        check_room(self.place, sum(theirs[name].size for name in wanted), self.folder)
        for name in self.known.keys() - theirs.keys():
            known = self.known.pop(name)
            if known.under_way != "sent" and known.here == ours.get(name):
                (self.folder / name).unlink(missing_ok=True)  # it was removed there
        self.known |= {name: Known(under_way="brought") for name in wanted}
        self._keep()
        for name in wanted:
            bring(self.place, theirs[name], self.folder / name)
        ours = _states(self.folder)
        self.known |= {name: Known(theirs[name].mark, ours[name]) for name in wanted}
        self._keep()

    def _is_newer(self, name: str, file: RemoteFile, ours: Mapping[str, tuple[int, int]]) -> bool:
        """Whether a file there takes the place of the one here."""
        known = self.known.get(name, Known())
        if name not in ours or known.under_way == "brought":
            return True
        if file.mark == known.there or known.under_way == "sent":  # the one here is as new
            return False
        if ours[name] == known.here:
            return True
        raise RemoteError(
            f"{self.place.address}: {name} has changed there and in {self.folder} since they were "
            "the same; remove the one that you do not want"
        )

    def _try_to_write(self) -> None:
        """Whatever forbids writing is to be known before the work begins."""
        with translated(self.place.address):
            target = self._target(_PROBE)
            self._make_folder(target)
            self.place.files.pipe_file(target, b"")
            with contextlib.suppress(Exception):  # who may write need not be allowed to remove
                self.place.files.rm_file(target)

    def is_due(self) -> bool:
        """Whether something was saved; a file that only grows may wait."""
        waited = self.clock() - self.sent >= GROWING_S
        return any(waited or not _grows(name) for name in self._changed(_states(self.folder)))

    def send(self) -> None:
        """Send what has changed here, and remove there what was removed here.

        What is needed to resume goes before logs and journals: what a log has more is dropped.

        Raises:
            InUseError: a file has changed there meanwhile, so another machine works in it.
            RemoteError: something cannot be written; the next call tries again.
        """
        ours = _states(self.folder)
        changed = sorted(self._changed(ours), key=_grows)
        removed = [name for name in self.known if name not in ours]
        self.sent = self.clock()
        if not changed and not removed:
            return
        arrived: list[str] = []
        try:
            theirs = list_files(self.place)
            for name in (*changed, *removed):
                self._check_untouched(name, theirs)
            self.known |= {
                name: replace(self.known.get(name, Known()), under_way="sent") for name in changed
            }
            self._keep()
            for name in changed:
                with translated(self.place.address):
                    self._make_folder(self._target(name))
                    self.place.files.put_file(str(self.folder / name), self._target(name))
                arrived.append(name)
            for name in removed:
                if name in theirs:
                    with translated(self.place.address):
                        self.place.files.rm_file(theirs[name].path)
                    self._remove_empty(name)
                del self.known[name]
            theirs = list_files(self.place)
            self.known |= {
                name: Known(theirs[name].mark, ours[name]) for name in arrived if name in theirs
            }
        except RemoteError as error:
            raise RemoteError(
                f"{error}; {len(changed) - len(arrived)} files could not be sent and are in "
                f"{self.folder}; the same command sends them"
            ) from error
        finally:
            self._keep()

    def _check_untouched(self, name: str, theirs: Mapping[str, RemoteFile]) -> None:
        known = self.known.get(name, Known())
        if name in theirs and not known.under_way and theirs[name].mark != known.there:
            raise InUseError(
                f"{self.place.address} is in use by another machine: {name} has changed there; "
                f"what this one has done is in {self.folder}"
            )

    def _target(self, name: str) -> str:
        return f"{self.place.path.rstrip('/')}/{name}"

    def _make_folder(self, target: str) -> None:
        """Make the folder of a file."""
        if self._has_folders():
            self.place.files.makedirs(target.rpartition("/")[0], exist_ok=True)

    def _has_folders(self) -> bool:
        """Whether there are folders; object stores have none, and would make or remove a bucket."""
        from fsspec.asyn import AsyncFileSystem

        return not isinstance(self.place.files, AsyncFileSystem)

    def _remove_empty(self, name: str) -> None:
        """Remove the folders that a file leaves empty."""
        if not self._has_folders():
            return
        for parent in list(PurePosixPath(name).parents)[:-1]:
            try:
                self.place.files.rmdir(self._target(str(parent)))
            except Exception:  # it holds something; every driver has errors of its own
                return

    def _changed(self, ours: Mapping[str, tuple[int, int]]) -> list[str]:
        return [name for name, state in ours.items() if self.known.get(name, Known()).here != state]

    def _keep(self) -> None:
        files = {name: vars(known) for name, known in self.known.items()}
        write_json(self.folder / RECORD, {"address": self.place.address, "files": files})


def _states(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file of a run by its name: its size and when it was written."""
    found = {}
    for path in folder.rglob("*"):
        if path.name in (LOCK, RECORD) or PARTIAL.fullmatch(path.name):
            continue
        try:
            if path.is_file() and not path.is_symlink():
                state = path.stat()
                found[path.relative_to(folder).as_posix()] = (state.st_size, state.st_mtime_ns)
        except OSError:  # it went away meanwhile
            continue
    return found


def _grows(name: str) -> bool:
    return name.endswith(".jsonl") or name.startswith("tensorboard/")


def _read_record(path: Path) -> dict[str, Known]:
    if not path.exists():
        return {}
    known = {}
    for name, entry in Fields(read_json(path), str(path)).table("files").data.items():
        fields = Fields(entry, f"{path}: {name}")
        here = fields.any("here")
        known[name] = Known(
            fields.any("there"), None if here is None else tuple(here), fields.text("under_way")
        )
    return known
