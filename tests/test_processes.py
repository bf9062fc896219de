"""Commands as processes: their streams, and signals while they start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD_ENGINE = str(ROOT / "export" / "build_engine.py")
# One of each skin: of nas_gan, ard and export; of edge_bench; of the script in a bundle.
SKINS = (["-m", "ard.select"], ["-m", "edge_bench"], [BUILD_ENGINE])
# Through the skin, a command that prints what few terminals can show.
PRINTS = """
import sys
from dataclasses import dataclass
from nas_gan.cli import progress, run

@dataclass(frozen=True)
class Config:
    '''Settings.'''

def main(config):
    with progress("Δ", 2) as advance:
        advance(2)
    sys.stderr.write("Δ\\n")
    sys.stdout.write("Δ ± \\udcff " + "x" * {width} + "\\n")

sys.exit(run(main, Config, prog="prog", description="Prints Δ.", args=[]))
"""


def start(*arguments: str, **options):
    environment = {**os.environ, "PYTHONUNBUFFERED": "", **options.pop("env", {})}
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, **options)


def with_output(process) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out or "", err or ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_terminal_cannot_encode_is_replaced(encoding):
    process = start(
        *("-c", PRINTS.format(width=1)), env={"PYTHONIOENCODING": encoding},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding=encoding,
    )  # fmt: skip
    code, out, err = with_output(process)
    shown = {"ascii": "? ? ? x\n", "latin-1": "? ± ? x\n", "utf-8": "Δ ± ? x\n"}[encoding]
    assert (code, out) == (0, shown)
    assert "Traceback" not in err


@pytest.mark.parametrize("skin", SKINS, ids=" ".join)
def test_help_is_shown_in_ascii(skin):
    process = start(
        *skin, "--help", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"},
    )  # fmt: skip
    code, out, err = with_output(process)
    assert (code, err) == (0, "")
    assert out.isascii()
    assert "--help" in out


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [*SKINS, "short", "long"], ids=str)
def test_a_reader_that_leaves_is_no_error(command, unbuffered):
    widths = {"short": 1, "long": 100_000}  # less and more than the buffer
    arguments = (
        ["-c", PRINTS.format(width=widths[command])]
        if isinstance(command, str)
        else [*command, "--help"]
    )
    reading, writing = os.pipe()
    os.close(reading)
    process = start(
        *arguments, stdout=writing, stderr=subprocess.PIPE, text=True,
        env={"PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    os.close(writing)
    code, _, err = with_output(process)
    # Unbuffered, argparse itself passes over an output that fails.
    assert code in ((0, 141) if unbuffered and command in SKINS else (141,))
    assert not [word for word in ("Traceback", "rror", "ignored") if word in err], err


def test_a_run_goes_on_if_only_its_progress_is_no_longer_watched():
    reading, writing = os.pipe()
    os.close(reading)
    quiet = PRINTS.replace('sys.stderr.write("Δ\\n")', "")
    process = start("-c", quiet.format(width=1), stdout=subprocess.PIPE, stderr=writing, text=True)
    os.close(writing)
    code, out, _ = with_output(process)
    assert (code, out) == (0, "Δ ± ? x\n")


@pytest.mark.parametrize("skin", SKINS, ids=" ".join)
def test_closed_streams_are_no_error(skin):
    command = " ".join([sys.executable, *skin, "--help", ">&-", "2>&-"])
    assert subprocess.run(["sh", "-c", command], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("skin", SKINS, ids=" ".join)
def test_a_full_disk_behind_stdout_is_one_line(skin):
    with Path("/dev/full").open("w") as full:
        process = start(*skin, "--help", stdout=full, stderr=subprocess.PIPE, text=True)
        code, _, err = with_output(process)
    assert code == 1
    assert err.startswith(("error: output: no space left", "error: output: No space left"))
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "seen"),
    [("ard.compress", "torch._utils"), ("nas_gan.train", "torch._utils"),
     ("export", "torch._utils"), ("edge_bench", "numpy.")],
)  # fmt: skip
@pytest.mark.parametrize(
    ("number", "word", "code"),
    [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)],
)
def test_a_signal_during_the_imports_is_one_line_and_a_code(command, seen, number, word, code):
    process = start(
        *("-X", "importtime", "-m", command, "--help"),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if seen in line:
                break
        process.send_signal(number)
        rest = [line for line in process.stderr if not line.startswith("import time:")]
    assert process.returncode == code
    assert rest == [f"{word}: nothing was done yet; run the same command again\n"]


HOST = """
import signal
import ard, edge_bench, export, nas_gan
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
"""


def test_a_host_program_keeps_its_interrupts(tmp_path: Path):
    host = tmp_path / "host"
    host.mkdir()
    (host / "__init__.py").write_text(HOST)
    (host / "__main__.py").write_text(HOST)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    for arguments in (["-c", HOST], ["-m", "host"], ["-m", "host.__main__", "-m", "ard.compress"]):
        subprocess.run([sys.executable, *arguments], env=environment, cwd=tmp_path, check=True)


@pytest.mark.parametrize("package", ["ard", "edge_bench"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_that_is_ignored_stays_ignored(package, name):
    owner = "edge_bench" if package == "edge_bench" else "nas_gan"
    code = (
        f"import signal, sys; signal.signal(signal.{name}, signal.SIG_IGN);"
        f"sys.argv, sys.orig_argv = ['-m'], ['python', '-m', '{package}.x']; import {package}\n"
        f"from {owner}.interrupts import interruptible\n"
        f"with interruptible(): assert signal.getsignal(signal.{name}) is signal.SIG_IGN\n"
        f"assert signal.getsignal(signal.{name}) is signal.SIG_IGN"
    )
    assert start("-c", code).wait(120) == 0
