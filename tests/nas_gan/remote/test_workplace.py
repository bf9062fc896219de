import time
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from nas_gan.errors import InUseError, RemoteError
from nas_gan.remote import workplace
from nas_gan.remote.addresses import open_place
from nas_gan.remote.listing import bring, list_files
from nas_gan.remote.workplace import GROWING_S, Mirror, working_in


@pytest.fixture
def here(tmp_path):
    """The cache of this machine."""
    return tmp_path / "here"


@pytest.fixture
def elsewhere(tmp_path):
    """That of another machine."""
    return tmp_path / "elsewhere"


def break_uploads(patch, error):
    def put_file(self, *args, **more):
        raise error

    for files in (MemoryFileSystem, LocalFileSystem):
        patch.setattr(files, "put_file", put_file)


def test_a_local_directory_is_worked_in_as_it_is(tmp_path):
    with working_in(tmp_path / "run") as place:
        assert (place.folder, place.address) == (tmp_path / "run", None)
        (place.folder / "a").write_text("1")
    assert place.shown(tmp_path / "run" / "a") == str(tmp_path / "run" / "a")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["a"]


def test_another_machine_goes_on_where_this_one_stopped(remote, content, here, elsewhere):
    with working_in(remote, here) as place:
        (place.folder / "samples").mkdir()
        (place.folder / "state.pt").write_bytes(b"at 3")
        (place.folder / "samples" / "3.png").write_bytes(b"picture")
        assert place.shown(place.folder / "state.pt") == f"{place.address}/state.pt"
    assert content() == {"state.pt": b"at 3", "samples/3.png": b"picture"}
    with working_in(remote, elsewhere) as place:
        assert (place.folder / "state.pt").read_bytes() == b"at 3"
        (place.folder / "state.pt").write_bytes(b"at 10")
        (place.folder / "samples" / "3.png").unlink()
    assert content() == {"state.pt": b"at 10"}
    there = open_place(remote)
    assert not there.files.exists(f"{there.path}/samples")  # nor an empty folder
    with working_in(remote, here) as place:
        assert (place.folder / "state.pt").read_bytes() == b"at 10"
        assert not (place.folder / "samples" / "3.png").exists()


def test_what_is_saved_is_sent_while_the_run_goes_on(remote, content, here, monkeypatch):
    monkeypatch.setattr(workplace, "LOOK_S", 0.01)
    with working_in(remote, here) as place:
        (place.folder / "state.pt").write_bytes(b"saved")
        for _ in range(3000):
            if content().get("state.pt") == b"saved":
                break
            time.sleep(0.01)
        assert content() == {"state.pt": b"saved"}


def test_a_log_is_sent_with_what_is_saved_or_after_a_while(remote, content, here):
    now = 0.0
    here.mkdir()
    mirror = Mirror(open_place(remote), here, clock=lambda: now)
    mirror.receive()
    assert not mirror.is_due()
    (here / "log.jsonl").write_text("{}\n")
    assert not mirror.is_due()
    now = GROWING_S
    assert mirror.is_due()
    mirror.send()
    assert content() == {"log.jsonl": b"{}\n"}
    (here / "log.jsonl").write_text("{}\n{}\n")
    assert not mirror.is_due()
    (here / "state.pt").write_text("1")
    assert mirror.is_due()
    mirror.send()
    assert set(content()) == {"log.jsonl", "state.pt"}


def test_nothing_is_sent_twice(remote, here, monkeypatch):
    here.mkdir()
    mirror = Mirror(open_place(remote), here)
    mirror.receive()
    (here / "a").write_text("1")
    mirror.send()
    break_uploads(monkeypatch, AssertionError("sent again"))
    mirror.send()
    again = Mirror(open_place(remote), here)
    again.receive()
    again.send()


def test_a_state_arrives_before_the_log_that_leads_to_it(remote, here, monkeypatch):
    sent = []
    for files in (MemoryFileSystem, LocalFileSystem):
        monkeypatch.setattr(
            files, "put_file", lambda self, source, target: sent.append(Path(source).name)
        )
    here.mkdir()
    mirror = Mirror(open_place(remote), here)
    for name in ("a.jsonl", "journal.jsonl", "state.pt"):
        (here / name).write_text("1")
    mirror.send()
    assert sent == ["state.pt", "a.jsonl", "journal.jsonl"]


def test_locks_and_half_written_files_stay_here(remote, content, here):
    with working_in(remote, here) as place:
        assert (place.folder / ".lock").exists()
        (place.folder / ".state-abcd1234.partial.pt").write_text("half")
        (place.folder / "state.pt").write_text("whole")
    assert set(content()) == {"state.pt"}


def test_what_a_killed_run_could_not_send_is_sent_by_the_next(remote, content, here):
    with working_in(remote, here) as place:
        (place.folder / "state.pt").write_bytes(b"at 3")
    (place.folder / "state.pt").write_bytes(b"at 10")  # and was killed
    with working_in(remote, here) as place:
        assert (place.folder / "state.pt").read_bytes() == b"at 10"
    assert content() == {"state.pt": b"at 10"}


def test_a_run_that_was_killed_while_it_sent_goes_on(remote, content, here, monkeypatch):
    with working_in(remote, here) as place:
        (place.folder / "state.pt").write_bytes(b"at 3")
    mirror = Mirror(open_place(remote), place.folder)
    (place.folder / "state.pt").write_bytes(b"at 10")
    with monkeypatch.context() as patch:
        patch.setattr(workplace, "list_files", killed_at_the_second_call(list_files))
        with pytest.raises(KeyboardInterrupt):  # sent, and not yet noted down
            mirror.send()
    assert content() == {"state.pt": b"at 10"}
    (place.folder / "state.pt").write_bytes(b"at 12")
    with working_in(remote, here) as place:
        assert (place.folder / "state.pt").read_bytes() == b"at 12"
    assert content() == {"state.pt": b"at 12"}


def killed_at_the_second_call(function):
    calls = []

    def call(*args):
        calls.append(args)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return function(*args)

    return call


def test_a_run_that_was_killed_while_it_was_copied_here_is_copied_again(
    remote, write, here, monkeypatch
):
    write("a", b"1")
    write("b", b"2")

    def bring_and_die(place, file, target):
        bring(place, file, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(workplace, "bring", bring_and_die)
        with pytest.raises(KeyboardInterrupt), working_in(remote, here):
            pass
    with working_in(remote, here) as place:
        assert {p.name: p.read_bytes() for p in place.folder.glob("[a-z]")} == {
            "a": b"1",
            "b": b"2",
        }


def test_of_two_machines_the_second_to_write_is_refused(remote, write, content, here):
    def work():
        with working_in(remote, here) as place:
            (place.folder / "state.pt").write_bytes(b"ours")
            write("state.pt", b"theirs")

    with pytest.raises(InUseError, match=r"another machine: state\.pt has changed there"):
        work()
    assert content() == {"state.pt": b"theirs"}
    [kept] = here.rglob("state.pt")
    assert kept.read_bytes() == b"ours"


def test_two_histories_of_one_run_are_not_mixed(remote, write, content, here):
    with working_in(remote, here) as place:
        (place.folder / "state.pt").write_bytes(b"common")
    (place.folder / "state.pt").write_bytes(b"ours")
    write("state.pt", b"theirs!")
    with (
        pytest.raises(RemoteError, match=r"state\.pt has changed there and in .*; remove the one"),
        working_in(remote, here),
    ):
        pytest.fail("nothing may work in it")
    assert content() == {"state.pt": b"theirs!"}
    assert (place.folder / "state.pt").read_bytes() == b"ours"


def test_without_a_connection_the_run_goes_on_and_says_where_its_files_are(
    remote, content, here, monkeypatch, caplog
):
    monkeypatch.setattr(workplace, "LOOK_S", 0.01)

    def work():
        with working_in(remote, here) as place:
            break_uploads(patch, ConnectionError("no route"))
            (place.folder / "state.pt").write_text("1")
            while not caplog.records:
                time.sleep(0.01)
            time.sleep(0.1)

    with monkeypatch.context() as patch:
        with pytest.raises(
            RemoteError, match=r"no route .*1 files could not be sent.*same command"
        ):
            work()
        assert len([r for r in caplog.records if "no route" in r.message]) == 1
    assert content() == {}
    with working_in(remote, here):
        pass
    assert content() == {"state.pt": b"1"}


def test_the_error_of_a_run_comes_before_that_of_sending(remote, here, monkeypatch, caplog):
    def work():
        with working_in(remote, here) as place:
            (place.folder / "state.pt").write_text("1")
            break_uploads(monkeypatch, ConnectionError("no route"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert "no route" in caplog.text


def test_what_must_not_be_written_is_known_before_the_work_begins(remote, here, monkeypatch):
    def pipe_file(self, *args, **more):
        raise PermissionError("Access Denied")

    for files in (MemoryFileSystem, LocalFileSystem):
        monkeypatch.setattr(files, "pipe_file", pipe_file)
    with pytest.raises(RemoteError, match="Access Denied"), working_in(remote, here):
        pytest.fail("nothing may work in it")


def test_two_commands_on_one_machine_are_told_apart_by_the_lock(remote, here, monkeypatch):
    monkeypatch.setattr("nas_gan.locks.PATIENCE_S", 0.0)
    with (
        working_in(remote, here),
        pytest.raises(InUseError, match="in use by"),
        working_in(remote, here),
    ):
        pytest.fail("both work in it")
