from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import time

import pytest

from edge_bench import layers
from edge_bench.__main__ import main
from edge_bench.command import (
    EXIT_CODES,
    WIPE,
    add_timing_options,
    add_topics,
    make_parser,
    progress,
)

QUICK = ["--runs", "20", "--warmup", "2", "--duration", "0"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_two_bundles_give_a_table_a_file_and_exit_code_0(make_bundle, tmp_path, capsys):
    bundles = [str(make_bundle("dense", width=64)), str(make_bundle("compressed"))]
    assert main([*bundles, "--batch", "1", "4", *QUICK, "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert [line.split()[:2] for line in out.splitlines()[2:6]] == [
        ["dense", "1"], ["compressed", "1"], ["dense", "4"], ["compressed", "4"],
    ]  # fmt: skip
    assert out.splitlines()[-1] == f"wrote {tmp_path / 'out' / 'bench.json'}"
    value = json.loads((tmp_path / "out" / "bench.json").read_text())
    # Five processes have a fifth of the runs each, which is one block.
    assert [row["rounds_by_process"] for row in value["rows"]] == [[1] * 5] * 4
    assert [len(row["samples_us"]) for row in value["rows"]] == [5] * 4


def test_the_command_runs_as_a_module(make_model, tmp_path):
    command = [sys.executable, "-W", "error", "-m", "edge_bench", str(make_model()), *QUICK]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False
    )
    # On a slow machine there is progress to tell, and nothing else.
    assert [line for line in done.stderr.splitlines() if not line.startswith("measuring: ")] == []
    assert done.returncode == 0
    assert "images/s" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [["absent"], ["MODEL", "--runner", "tensorrt"], ["MODEL", "--out", "/dev/null/x"]],
    ids=["no bundle", "no engine", "no folder"],
)
def test_our_errors_are_one_line_and_exit_code_1(make_model, capsys, arguments, tmp_path):
    model = str(make_model())
    line = [model if argument == "MODEL" else argument for argument in arguments]
    assert main(["--out", str(tmp_path), *line]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize("command", [main, layers.main], ids=["bundles", "layers"])
def test_an_error_about_a_setting_names_its_option(command, make_model, capsys, tmp_path):
    model = make_model()
    listed = [{"file": model.name, "signature": "a", "choice": "dense"}]
    (tmp_path / "layers.json").write_text(
        json.dumps({"format": 1, "precision": "fp32", "layers": listed})
    )
    what = [str(model), "--out", str(tmp_path)] if command is main else [str(tmp_path)]
    assert command([*what, "--batch", "2", "2"]) == 1
    assert capsys.readouterr().err == "error: --batch takes every size once; got [2, 2]\n"


def test_a_batch_that_no_memory_holds_is_one_line(make_model, capsys, tmp_path):
    assert main([str(make_model()), "--batch", str(10**14), "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "error: out of memory; use a smaller --batch\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["m.onnx", "--batch", "0"],
        ["m.onnx", "--batch", "one"],
        ["m.onnx", "--duration", "nan"],
        ["m.onnx", "--duration", "-1"],
        ["m.onnx", "--runner", "tflite"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(
    ("command", "prog"),
    [(main, "python -m edge_bench"), (layers.main, "python -m edge_bench.layers")],
    ids=["bundles", "layers"],
)
def test_usage_errors_are_exit_code_2(command, prog, arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        command(arguments)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"usage: {prog} [-h] [--runs N] [--duration SECONDS]")
    assert f"\n{prog}: error: " in err


def test_the_options_of_both_commands_mean_the_same_and_differ_in_how_long_they_measure():
    asked = ["x", "--threads", "3"]
    defaults = []
    for run_s, prog in ((3.0, "bundles"), (0.2, "layers")):
        parser = make_parser(prog, "What it does.", f"{prog} x")
        topics = add_topics(parser)
        topics.what.add_argument("what")
        add_timing_options(topics, timed="each", runs=7, duration=run_s)
        options = vars(parser.parse_args(asked))
        defaults.append(options.pop("duration"))
        assert options == {"what": "x", "runs": 7, "threads": 3}
        assert parser.format_help().endswith(f"example:\n  {prog} x\n\n{EXIT_CODES}\n")
    assert defaults == [3.0, 0.2]


@pytest.mark.parametrize("command", [main, layers.main], ids=["bundles", "layers"])
def test_every_option_has_a_sentence_and_stands_under_its_topic(command, capsys):
    with pytest.raises(SystemExit):
        command(["--help"])
    text = capsys.readouterr().out
    topics = re.split(r"^(what to time|how to time|machine|results):$", text, flags=re.MULTILINE)
    assert topics[1::2] == ["what to time", "how to time", "machine", "results"]
    assert "--" not in topics[0].split("\noptions:\n")[1].replace("-h, --help", "")
    listed = "".join(topics[2::2]).split("\nexample:")[0]
    helps = re.split(r"^  \S.*?(?:  |\n {20})", listed, flags=re.MULTILINE)[1:]
    assert len(helps) == len(re.findall(r"^  \S", listed, flags=re.MULTILINE)) > 6
    for one in helps:
        words = " ".join(one.split())
        assert re.fullmatch(r"[A-Z].*\.( \(default: .*\))?", words), words


def test_ctrl_c_is_exit_code_130_and_writes_nothing(make_model, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "edge_bench", str(make_model()), "--runs", "100000000"]
    with subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE) as process:
        while not out.exists():
            time.sleep(0.02)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.decode().strip().startswith("interrupted")
    assert list(out.iterdir()) == []


def test_a_terminal_gets_one_line_with_the_time_left_that_is_wiped_in_the_end():
    stream, clock = Terminal(), iter([0.0, 0.1, 3.0, 3.1])
    with progress(stream, clock.__next__) as advance:
        advance(0.0)
        advance(0.25)
        advance(0.26)  # too soon to draw again
    # A quarter took 3 s: three quarters take 9.
    assert stream.getvalue().split(WIPE) == [
        "", "measuring: warming up", "measuring:  25%, 9 s left", "",
    ]  # fmt: skip


def test_a_log_file_gets_a_line_every_few_seconds():
    stream, clock = io.StringIO(), iter([0.0, 4.0, 5.0, 6.0])
    with progress(stream, clock.__next__) as advance:
        for fraction in (0.4, 0.5, 0.6):
            advance(fraction)
    assert stream.getvalue() == "measuring:  50%, 5 s left\n"


def test_the_table_is_also_written_in_markdown(make_model, tmp_path, capsys):
    out = tmp_path / "new" / "table.md"
    given = [str(make_model()), "--out", str(tmp_path), "--repeats", "1", "--batch", "3", *QUICK]
    assert main([*given, "--markdown", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"wrote {out}",
        f"wrote {tmp_path / 'bench.json'}",
    ]
    assert "| tiny | 3 |" in out.read_text()
    for wrong in ("/dev/null/x/table.md", "/", str(tmp_path)):
        for option in ("--markdown", "--html"):
            assert main([*given, option, wrong]) == 1
            err = capsys.readouterr().err
            assert err.startswith(f"error: {wrong.removesuffix('/table.md')}")
            assert err.count("\n") == 1


def test_a_bundle_whose_name_is_a_command_is_measured_by_its_path(
    make_bundle, tmp_path, monkeypatch, capsys
):
    make_bundle("compare")
    monkeypatch.chdir(tmp_path)
    assert main(["./compare", "--repeats", "1", "--batch", "1", *QUICK]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:2] == ["compare", "1"]
