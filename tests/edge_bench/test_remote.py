"""Commands on another machine: a real sshd on the loopback, and a Python without this project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import SSHD, Device, bare_python, children_of, serving, wait_for

from edge_bench import __main__ as command
from edge_bench.__main__ import main
from edge_bench.command import as_arguments
from edge_bench.remote import Job, Step, run_on
from edge_bench.ssh import Connection, ConnectionLostError, Host, RemoteError

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(SSHD is None, reason="no sshd: apt-get install openssh-server")
QUICK = ["--runs", "10", "--duration", "0", "--warmup", "1", "--batch", "1"]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    return bare_python(tmp_path_factory.mktemp("python"))


@pytest.fixture
def device(tmp_path, python) -> Iterator[Device]:
    with serving(tmp_path, python) as found:
        yield found


# -- the commands


def test_a_bundle_is_timed_on_the_device_and_nothing_stays_there(
    device, make_bundle, tmp_path, capfd
):
    bundle = make_bundle("small")
    out = tmp_path / "here"
    page = tmp_path / "page.html"
    written = ["--out", str(out), "--html", str(page)]
    assert main([str(bundle), *QUICK, *written, *device.arguments]) == 0
    assert page.read_text().startswith("<!")
    report = json.loads((out / "bench.json").read_text())
    assert [row["bundle"] for row in report["rows"]] == ["small"]
    assert len(report["rows"][0]["samples_us"]) > 0
    printed = capfd.readouterr().out
    assert str(out / "bench.json") in printed
    assert "small" in printed
    assert list(device.home.iterdir()) == []


def test_a_scenario_is_passed_on_and_comes_back(device, make_bundle, tmp_path, capfd):
    given = ["--scenario", "server", "--target-qps", "300", "--latency-bound", "9s", "--cuda-graph"]
    given += ["--runs", "20", "--duration", "0", "--repeats", "1", "--out", str(tmp_path)]
    given += ["--transfers", "none", "--runner", "onnxruntime", "torch"]
    assert main([str(make_bundle("small")), *given, *device.arguments]) == 0
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["plan"]["scenario"]["latency_bound_s"] == 9.0
    assert report["rows"][0]["scenario"]["bound"] == "undecided"
    assert (report["transfers"], report["cuda_graph"]) == ("none", True)
    assert report["rows"][0]["covers"]["no_cuda_graph"] == "it runs on the CPU"
    assert report["failed"][0]["runner"] == "torch"
    assert list(device.home.iterdir()) == []


def test_the_python_of_the_device_has_nothing_of_this_project(device):
    with Connection(device.host) as connection:
        script = f"{device.host.python} -c 'import torch'"
        assert "No module named 'torch'" in connection.shell(script).last
        script = f"{device.host.python} -c 'import edge_bench'"
        assert "No module named 'edge_bench'" in connection.shell(script).last


def test_what_the_device_refuses_is_said_here(device, make_bundle, tmp_path, capfd):
    bundle = make_bundle("small")
    code = main([str(bundle), "--runner", "tensorrt", *device.arguments, "--out", str(tmp_path)])
    assert code == 1
    said = capfd.readouterr().err.splitlines()
    assert len([line for line in said if line.startswith("error:")]) == 1
    assert "tensorrt" in said[-1].lower()
    assert list(device.home.iterdir()) == []
    assert not (tmp_path / "bench.json").exists()


def test_every_option_means_the_same_on_the_device():
    """What is passed on is parsed there into what was given here."""
    given = ["bundle", "--batch", "1", "8", "--runs", "7", "--duration", "0.5", "--repeats", "2"]
    given += ["--warmup", "3", "--seed", "9", "--threads", "2", "--runner", "onnxruntime"]
    given += ["--transfers", "in", "--scenario", "server", "--target-qps", "12.5"]
    given += ["--latency-bound", "50ms", "--samples", "9"]
    options = command._parser().parse_args(given)
    again = command._parser().parse_args(["bundle", *as_arguments(options, *command.FORWARDED)])
    assert again == options
    # `_job` passes these on in its own words.
    here = {"bundles", "out", "markdown", "html", "host", "python", "ssh", "score", "cuda_graph"}
    assert vars(options).keys() - here == set(command.FORWARDED)


# -- one line


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"python": "python0"}, "python0"),
        ({"address": "nobody@nowhere.invalid"}, "nowhere.invalid"),
        ({"address": "-oProxyCommand=touch evil"}, "host takes"),
        ({"ssh": "no-such-client -v"}, "no-such-client"),
        ({"ssh": "'"}, "ssh"),
    ],
)
def test_what_cannot_be_reached_is_one_line(device, changed, said):
    values = {"address": "jetson", "python": device.host.python, "ssh": device.host.ssh, **changed}
    with pytest.raises(RemoteError) as raised:
        run_on(Host(**values), lambda packages: Job({}, (), {}), print)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert list(device.home.iterdir()) == []


def test_an_unknown_host_key_is_refused_as_the_user_has_set_it(device, tmp_path):
    known = tmp_path / "ssh/known_hosts"
    known.write_text("")
    with pytest.raises(ConnectionLostError, match=r"(?i)host key"):
        run_on(device.host, lambda packages: Job({}, (), {}), print)


# -- connections that end


SLOW = """
import sys, time, pathlib
pathlib.Path("out/begun.txt").open("a").write("once")
for n in range(int(sys.argv[1])):
    print("step", n, file=sys.stderr, flush=True)
    time.sleep(0.2)
pathlib.Path("out/result.txt").write_text("begun " + pathlib.Path("out/begun.txt").read_text())
print("wrote out/result.txt")
"""


def slow_job(out: Path, steps: int) -> Job:
    return Job({}, (Step(("-c", SLOW, str(steps))),), {"result.txt": out})


def test_a_connection_that_is_lost_is_made_again(device, tmp_path):
    out, said, cuts = tmp_path / "result.txt", [], []

    def say(line: str) -> None:
        said.append(line)
        if line in ("step 2", "step 6"):
            cuts.append(device.cut())

    code, printed = run_on(device.host, lambda packages: slow_job(out, 10), say, sleep=_short)
    assert (code, printed) == (0, f"wrote {out}\n")
    assert out.read_text() == "begun once"
    assert [line for line in said if line.startswith("step")] == [f"step {n}" for n in range(10)]
    assert len(cuts) == 2
    assert all(cuts)
    assert any("trying again" in line for line in said)
    assert list(device.home.iterdir()) == []


def _short(seconds: float) -> None:
    time.sleep(min(seconds, 0.1))


def test_a_command_that_was_killed_picks_up_its_job(device, tmp_path):
    out = tmp_path / "result.txt"
    code = f"""
from pathlib import Path
from edge_bench.remote import run_on
from edge_bench.ssh import Host
from test_remote import slow_job
job = slow_job(Path({str(out)!r}), 20)
run_on({device.host!r}, lambda packages: job, lambda line: print(line, flush=True))
"""
    places = os.pathsep.join((str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)))
    environment = {**os.environ, "PYTHONPATH": places}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"step 0\n"
        first.kill()
    [folder] = device.home.iterdir()
    wait_for(lambda: not children_of(device.daemon.pid))  # the connection died with its command
    assert folder.name.startswith(".edge_bench-")
    run_on(device.host, lambda packages: slow_job(out, 20), lambda line: None)
    assert out.read_text() == "begun once"
    assert list(device.home.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupt_ends_the_job_and_leaves_nothing(device, tmp_path, error):
    def say(line: str) -> None:
        raise error

    with pytest.raises(error):
        run_on(device.host, lambda packages: slow_job(tmp_path / "result.txt", 1000), say)
    assert list(device.home.iterdir()) == []
    wait_for(lambda: not _running(str(device.home)))


def _running(folder: str) -> list[str]:
    """The processes that work in this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str((process / "cwd").readlink()).startswith(folder):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_a_device_that_stays_away_is_told_and_keeps_the_job(device, tmp_path):
    now = iter(range(0, 100_000, 400))
    out = tmp_path / "result.txt"

    def say(line: str) -> None:
        if line == "step 0":
            device.stop()

    with pytest.raises(RemoteError, match="brings the result"):
        run_on(
            device.host,
            lambda packages: slow_job(out, 10),
            say,
            clock=lambda: next(now),
            sleep=_short,
        )
    [folder] = device.home.iterdir()
    wait_for(lambda: (folder / "out/result.txt").exists())
