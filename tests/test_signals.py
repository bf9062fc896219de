"""Commands that get a signal while they work: one line, an exit code, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nas_gan.children import run_child
from nas_gan.interrupts import Terminated, held_back, interruptible, let_through

ROOT = Path(__file__).parents[1]


def start(*arguments: str, **options):
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, text=True, **options)


# -- every skin

# What waits for the signal, and cleans up after itself.
WAITS = """
import sys, time
from pathlib import Path

def wait(*_):
    try:
        sys.stderr.write("waiting\\n")
        sys.stderr.flush()
        time.sleep(60)
    finally:
        Path({left!r}).write_text("cleaned up")
"""
SKINS = {
    "nas_gan": """
from dataclasses import dataclass
from nas_gan.cli import run
@dataclass(frozen=True)
class Config:
    '''Settings.'''
sys.exit(run(wait, Config, prog="prog", description="", args=[]))
""",
    "edge_bench": """
from edge_bench.command import as_process, run
sys.exit(as_process(lambda: run(wait, interrupted="run the same command again to resume")))
""",
    "edge_bench before it measures": """
from edge_bench.command import as_process
sys.exit(as_process(wait))
""",
    "build_engine": """
from export import build_engine
build_engine.run = wait
sys.argv = ["build_engine.py"]
sys.exit(build_engine.as_process())
""",
}


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("skin", SKINS)
def test_sigterm_is_one_line_and_code_143(skin, twice, tmp_path):
    left = tmp_path / "left"
    code = WAITS.format(left=str(left)) + SKINS[skin]
    with start("-c", code, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "waiting\n"
        process.terminate()
        if twice:  # as GNU timeout does, to the process and to its group
            process.terminate()
        lines = process.stderr.readlines()
    assert (process.returncode, len(lines)) == (143, 1)
    assert lines[0].startswith("terminated: ")
    assert "run the same command again" in lines[0]
    assert left.read_text() == "cleaned up"


def test_of_several_ranks_only_the_first_speaks(tmp_path):
    code = WAITS.format(left=str(tmp_path / "left")) + SKINS["nas_gan"]
    said = []
    for rank in ("0", "1"):
        environment = {**os.environ, "RANK": rank}
        with start("-c", code, stderr=subprocess.PIPE, env=environment) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == "waiting\n"
            process.terminate()
            said.append(len(process.stderr.readlines()))
        assert process.returncode == 143
    assert said == [1, 0]


# What a native module makes of a signal while it is imported, as pybind11's do.
FAILS = """
import sys, time

def wait(*_):
    from {package}.errors import {error}
    try:
        try:
            sys.stderr.write("waiting\\n")
            sys.stderr.flush()
            time.sleep(60)
        except KeyboardInterrupt as interrupt:
            raise ImportError("initialization failed") from interrupt
    except ImportError:
        raise {error}("it is not installed") from None
"""


@pytest.mark.parametrize(
    ("skin", "package", "error", "number", "code"),
    [
        ("nas_gan", "nas_gan", "NasGanError", signal.SIGTERM, 143),
        ("nas_gan", "nas_gan", "NasGanError", signal.SIGINT, 130),
        ("edge_bench", "edge_bench", "EdgeBenchError", signal.SIGTERM, 143),
    ],
)
def test_a_signal_that_a_module_takes_for_an_error_is_still_one(skin, package, error, number, code):
    source = FAILS.format(package=package, error=error) + SKINS[skin]
    with start("-c", source, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "waiting\n"
        process.send_signal(number)
        [line] = process.stderr.readlines()
    assert process.returncode == code
    assert line.startswith(("terminated: ", "interrupted: "))


def test_a_signal_while_tensorrt_is_imported_ends_the_build(tmp_path):
    """The module fails with the signal as its cause, as those of pybind11 do."""
    module = "import time\nprint('waiting', flush=True)\ntry:\n    time.sleep(60)\n"
    module += "except BaseException as e:\n    raise ImportError('initialization failed') from e\n"
    (tmp_path / "tensorrt.py").write_text(module)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from export import build_engine
build_engine.run = lambda options: build_engine.import_tensorrt("tensorrt")
sys.argv = ["build_engine.py"]
sys.exit(build_engine.as_process())
"""
    with start("-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "waiting\n"
        process.terminate()
        said = process.stderr.read()
    assert (process.returncode, said.count("\n")) == (143, 1)


@pytest.mark.parametrize("skin", ["nas_gan", "edge_bench"])
def test_a_second_sigterm_kills_at_no_moment_of_the_ending(skin, tmp_path):
    code = WAITS.format(left=str(tmp_path / "left")) + SKINS[skin]
    with start("-c", code, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "waiting\n"
        while process.poll() is None:
            process.terminate()
    assert process.returncode == 143


# -- what must happen whole


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_what_is_held_back_is_raised_at_the_end(number, error):
    done = []
    with interruptible(), pytest.raises(error) as raised, held_back():  # noqa: PT012
        send(number)
        done.append("inside")
    assert done == ["inside"]
    assert raised.type is error


def test_a_second_interrupt_does_not_wait():
    with interruptible(), pytest.raises(KeyboardInterrupt), held_back():  # noqa: PT012
        send(signal.SIGINT)
        send(signal.SIGINT)
        pytest.fail("it waited")
    with interruptible(), held_back():  # and nothing of it is kept
        pass


def test_what_lets_interrupts_through_does_so_for_earlier_ones_too():
    done = []
    with interruptible(), pytest.raises(KeyboardInterrupt), held_back():  # noqa: PT012
        with let_through():
            done.append("free")
        send(signal.SIGINT)
        with let_through():
            done.append("not reached")
    assert done == ["free"]


def test_the_interrupt_counts_more_than_the_error_that_it_caused():
    with interruptible(), pytest.raises(Terminated), held_back():  # noqa: PT012
        send(signal.SIGTERM)
        raise RuntimeError("connection closed by peer")


def test_a_thread_holds_nothing_back_for_the_main_one():
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with interruptible(), held_back():
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(30)
    try:
        with interruptible(), pytest.raises(Terminated):  # noqa: PT012
            send(signal.SIGTERM)
            time.sleep(5)
    finally:
        leave.set()
        thread.join()
    with interruptible():  # of the next command, which nobody has terminated
        pass
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# -- processes that a command starts

PARENT = """
import sys
from nas_gan.children import child_process
from nas_gan.interrupts import interruptible

CHILD = '''
import sys
sys.argv, sys.orig_argv = ["-m"], ["python", "-m", "ard.x"]
import ard, time
print("here", flush=True)
time.sleep(60)
'''
with interruptible():
    with child_process([sys.executable, "-c", CHILD]) as child:
        print(child.pid, flush=True)
        child.wait()
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_a_command_started_ends_with_it(number):
    with start("-c", PARENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        said = {process.stdout.readline().strip(), process.stdout.readline().strip()}
        [child] = said - {"here"}
        assert is_running(int(child))
        process.send_signal(number)
        process.wait(60)
    deadline = time.monotonic() + 30
    while is_running(int(child)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(int(child))


def test_a_child_that_takes_too_long_is_ended():
    command = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"]
    started = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        run_child(command, timeout=3, stdout=subprocess.PIPE)
    assert time.monotonic() - started < 30


def test_a_child_that_ends_by_itself_says_what_it_has_to_say():
    code = "import sys; print('out'); sys.stderr.write('err' * 100_000); sys.exit(3)"
    done = run_child(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err" * 100_000)
