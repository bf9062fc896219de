from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import checkpoint_of, lively_generator

from ard.compress import CompressConfig, main, unspent
from ard.costs.latency_table import Conditions, LatencyRow, LatencyTable
from ard.layers import profile_layers
from ard.measuring.sensitivity import SensitivityTable
from ard.plan import Factorization, RankPlan
from ard.report.values import CompressionReport
from nas_gan.checkpoint import build_generator, load_checkpoint, save_checkpoint
from nas_gan.networks.latents import latent_bank

Command = Callable[..., tuple[int, str, str]]
# Only Linear and 1x1 layers are factorized by svd: half a dozen plans instead of ninety.
QUICK = (
    *("--samples", "64", "--sweep-samples", "32", "--recover-steps", "2", "--max-trials", "2"),
    *("--features", "efficientnet-lite0", "--threads", "1"),
    *("--methods", "svd", "--fractions", "0.5", "0.2"),
)
FILES = {
    "config.json", "journal.jsonl", "sensitivity.csv", "plan.json", "compressed.pt",
    "compressed.safetensors", "report.json", "report.html", "pareto.png", "sensitivity.png",
    "samples.png", "searches.json",
}  # fmt: skip


def in_a_process(
    *arguments: str | Path, module: str = "ard.compress", limit: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one of our commands; `limit` is the largest file that it may write, in bytes."""

    def lower_limit() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lower_limit,
    )


@pytest.fixture
def command(call: Command) -> Command:
    """Run the command in this process; exit code, stdout and stderr."""
    return lambda *arguments: call(main, CompressConfig, *arguments)


@pytest.fixture(scope="session")
def finished(
    checkpoint: Path, statistics: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A whole run with everything in it, by the shell."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    options = ("--fid-budget", "300%", "--reference", statistics, "--run-dir", run_dir)
    return run_dir, in_a_process(checkpoint, *options, *QUICK)


@pytest.fixture
def copied(finished: tuple[Path, object], tmp_path: Path) -> Path:
    """The finished run in a directory of its own, to be gone on with."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


@pytest.fixture
def arguments(checkpoint: Path, statistics: Path, copied: Path) -> tuple[str | Path, ...]:
    """What goes on with the copied run; another budget, or other settings, may follow."""
    run_dir = ("--run-dir", copied, "--no-bundle")
    return (checkpoint, "--reference", statistics, *run_dir, *QUICK, "--fid-budget", "300%")


def journal(run_dir: Path) -> list[tuple[str, str]]:
    """(stage, plan) of every measurement."""
    lines = (run_dir / "journal.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [(r["stage"], json.dumps(r["plan"])) for r in records if "stage" in r]


def trials_of(run_dir: Path) -> list[object]:
    """The rounds of recovery in a report."""
    trials: list[object] = json.loads((run_dir / "report.json").read_text())["trials"]
    return trials


def ends_in_one_line(stderr: str) -> bool:
    """Whether what was said of the generator is followed by one line of an error."""
    *_, last = stderr.splitlines()
    return stderr.endswith("\n") and last.startswith("error: ") and stderr.count("error: ") == 1


def is_one_line(stderr: str) -> bool:
    return stderr.startswith("error: ") and stderr.count("\n") == 1


# -- a whole run


def test_a_generous_budget_is_met(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    run_dir, done = finished
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    quality, *_, last = done.stdout.strip().splitlines()
    assert quality.startswith("quality ")
    assert "allowed" in quality
    assert last == str(run_dir / "report.html")


def test_the_run_directory_holds_what_the_design_promises_and_nothing_else(
    finished: tuple[Path, object],
) -> None:
    run_dir, _ = finished
    found = {path.name for path in run_dir.iterdir()}
    assert found == {*FILES, "bundle", "bench", "recovered"}
    bundle = {path.name for path in (run_dir / "bundle").iterdir()}
    assert {"model.onnx", "manifest.json", "build_engine.py"} <= bundle


def test_the_files_agree_with_one_another(finished: tuple[Path, object]) -> None:
    run_dir, _ = finished
    plan = RankPlan.from_json((run_dir / "plan.json").read_text())
    table = SensitivityTable.from_csv((run_dir / "sensitivity.csv").read_text())
    assert plan
    assert all(choice in [r.choice for r in table.of_layer(n)] for n, choice in plan.items())
    report = json.loads((run_dir / "report.json").read_text())
    assert report["budget_met"]
    config = json.loads((run_dir / "config.json").read_text())
    assert (config["samples"], config["fid_budget"]) == (64, "300%")


def test_both_compressed_files_make_the_same_smaller_generator(
    finished: tuple[Path, object], checkpoint: Path
) -> None:
    run_dir, _ = finished
    generators = [
        build_generator(load_checkpoint(run_dir / f"compressed{suffix}"))
        for suffix in (".pt", ".safetensors")
    ]
    latents = latent_bank(4, 120, 0)
    with torch.inference_mode():
        a, b = (generator(latents) for generator in generators)
    assert torch.equal(a, b)
    size = sum(p.numel() for p in generators[0].parameters())
    assert size < sum(p.numel() for p in build_generator(load_checkpoint(checkpoint)).parameters())


def test_no_plan_is_measured_twice(finished: tuple[Path, object]) -> None:
    assert set(Counter(journal(finished[0])).values()) == {1}


# -- going on with a finished run


@pytest.fixture
def strict(
    copied: Path, arguments: tuple[str | Path, ...], command: Command
) -> tuple[Path, int, str, str]:
    """The finished run, gone on with by a budget that nothing meets."""
    return copied, *command(*arguments, "--fid-budget", "1e-9")


def test_a_budget_that_nothing_meets_exits_3_with_the_best_found_saved(
    strict: tuple[Path, int, str, str], finished: tuple[Path, object], tmp_path: Path
) -> None:
    run_dir, code, out, err = strict
    assert code == 3
    assert "NOT met" in out
    assert not json.loads((run_dir / "report.json").read_text())["budget_met"]
    assert RankPlan.from_json((run_dir / "plan.json").read_text())
    grid = tmp_path / "grid.png"
    sampled = in_a_process(
        run_dir / "compressed.pt", "--out", grid, "--n", "4", module="nas_gan.sample"
    )
    assert sampled.returncode == 0, sampled.stderr
    assert grid.stat().st_size > 0
    # An absolute budget in a feature space of another scale comes with its percentage.
    hint = " ".join(err.split())
    assert "hint: distances in efficientnet-lite0@96 features are on a different scale" in hint
    assert "is the same as --fid-budget" in hint
    # The sweep of the first run is not measured again for another budget.
    before, after = Counter(journal(finished[0])), Counter(journal(run_dir))
    assert set(after.values()) == {1}
    assert before <= after
    assert all(stage != "single" for stage, _ in after - before)


def test_the_same_command_again_measures_nothing(
    copied: Path, arguments: tuple[str | Path, ...], command: Command
) -> None:
    before = (copied / "journal.jsonl").read_bytes()
    weights = load_checkpoint(copied / "compressed.pt").generator
    code, _, err = command(*arguments)
    assert code == 0
    assert (copied / "journal.jsonl").read_bytes() == before
    assert "distillation" not in err  # a bar that is shown while a network is trained
    again = load_checkpoint(copied / "compressed.pt").generator
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_finished_run_that_is_given_more_rounds_keeps_those_it_had(
    copied: Path, arguments: tuple[str | Path, ...], command: Command
) -> None:
    before, trials = journal(copied), trials_of(copied)
    code, _, err = command(*arguments, "--max-trials", "6")
    assert code == 0, err
    assert journal(copied)[: len(before)] == before
    assert trials_of(copied)[: len(trials)] == trials
    record = json.loads((copied / "searches.json").read_text())
    assert [entry["max_trials"] for entry in record["searches"]] == [[2], [2, 6]]


def test_a_full_disk_is_one_line_and_leaves_every_file_whole(
    copied: Path, arguments: tuple[str | Path, ...]
) -> None:
    before = {path.name: path.read_bytes() for path in copied.iterdir() if path.is_file()}
    done = in_a_process(*arguments, limit=60_000)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "Traceback" not in done.stderr
    after = {path.name: path.read_bytes() for path in copied.iterdir() if path.is_file()}
    assert after.keys() == before.keys()
    whole = ("compressed.pt", "compressed.safetensors", "journal.jsonl", "report.html")
    assert all(after[name] == before[name] for name in whole)
    assert not list(copied.rglob(".*"))


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [("--samples", "65", "samples is 64 there and 65 here"), ("--seed", "1", "seed is 0 there")],
)
def test_a_run_directory_of_other_settings_is_refused(
    copied: Path,
    arguments: tuple[str | Path, ...],
    command: Command,
    option: str,
    value: str,
    named: str,
) -> None:
    before = (copied / "config.json").read_bytes()
    code, _, err = command(*arguments, option, value)
    assert code == 1
    assert named in err
    assert ends_in_one_line(err)
    assert (copied / "config.json").read_bytes() == before


def test_a_run_directory_of_another_checkpoint_is_refused(
    arguments: tuple[str | Path, ...], tmp_path: Path, command: Command
) -> None:
    other = tmp_path / "other.pt"
    save_checkpoint(checkpoint_of(lively_generator(seed=1)), other)
    code, _, err = command(other, *arguments[1:])
    assert code == 1
    assert ends_in_one_line(err)
    assert "belongs to another run: checkpoint is" in err
    assert "--run-dir" in err


def test_without_any_data_the_dense_generator_is_its_own_reference(
    checkpoint: Path, tmp_path: Path, command: Command
) -> None:
    run_dir = tmp_path / "run"
    options = ("--reference", "dense", "--run-dir", run_dir, "--fid-budget", "300%", "--no-bundle")
    code, out, err = command(checkpoint, *options, *QUICK, "--fractions", "0.5")
    assert code == 0, err
    report = json.loads((run_dir / "report.json").read_text())
    assert report["reference"] == "2560 images of the dense generator"
    assert "2560 images of the dense generator" in out
    # A few images against many of the same generator: the distance is small, and not 0.
    assert 0 < report["fid_dense"] < 200


def test_a_search_that_ran_out_of_rounds_says_so(report: CompressionReport) -> None:
    # Seven rounds, and 12.5 + 3.6 of 22.3 used.
    hint = unspent(report, 7)
    assert "all 7 rounds" in hint
    assert "but 72 % of the budget" in hint
    assert "--max-trials 14" in hint
    better = replace(report, recovered=replace(report.recovered, ci_high=-8.0))
    assert "but 0 % of the budget" in unspent(better, 7)
    for quiet, most in (
        (report, 8),  # it ended by itself
        (replace(report, recovered=replace(report.recovered, ci_high=19.5)), 7),  # of 22.3
        (replace(report, budget_met=False), 7),
        (replace(report, budget=None), 7),
        (replace(report, budget=0.0), 7),
    ):
        assert unspent(quiet, most) == ""


# -- other objectives


@pytest.fixture(scope="session")
def latency_table(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up times: a millisecond for every thousand parameters of a layer."""
    generator = build_generator(load_checkpoint(checkpoint))
    under = Conditions(1, "onnxruntime", "a board", 1, "fp32")
    rows: dict[tuple[str, Factorization | None], LatencyRow] = {}
    for layer in profile_layers(generator, latent_bank(2, 120, 0)).layers:
        for choice in (None, *layer.rank_grid("svd", (0.5, 0.2))):
            ms = layer.params(choice) / 1000
            for signature in layer.signatures:
                rows[signature, choice] = LatencyRow(signature, choice, ms, ms, ms, under)
    path = tmp_path_factory.mktemp("latency") / "latency.csv"
    LatencyTable(tuple(rows.values())).save(path)
    return path


@pytest.mark.parametrize(
    "objective",
    [
        ("macs",),
        ("mixed", "--weights", "params=1", "latency=2"),
        pytest.param(("latency",), marks=pytest.mark.slow),
    ],
    ids=lambda objective: objective[0],
)
def test_another_objective_makes_that_smaller(
    objective: tuple[str, ...],
    checkpoint: Path,
    statistics: Path,
    latency_table: Path,
    tmp_path: Path,
    command: Command,
) -> None:
    run_dir = tmp_path / "run"
    options = ("--reference", statistics, "--run-dir", run_dir, "--no-bundle", "--anchors", "2")
    few = ("--fractions", "0.5", "0.2", "--recover-steps", "0", "--max-trials", "1")
    timed = () if objective == ("macs",) else ("--latency-table", latency_table)
    wanted = ("--fid-budget", "900%", *timed, "--objective", *objective)
    code, _, err = command(checkpoint, *options, *QUICK, *few, *wanted)
    assert code == 0, err
    report = json.loads((run_dir / "report.json").read_text())
    assert report["objective"] == objective[0]
    assert report["compressed"]["macs"] < report["dense"]["macs"]
    assert not (run_dir / "layers").exists()  # nothing was timed here


# -- stopped in the middle


def stop_during_the_sweep(arguments: tuple[str | Path, ...], path: Path, by: int) -> int:
    """Start the command, send a signal once two more lines are in the journal; the exit code."""
    at_start = path.read_bytes().count(b"\n") if path.exists() else 0
    process = subprocess.Popen(
        [sys.executable, "-m", "ard.compress", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 300
        while not path.exists() or path.read_bytes().count(b"\n") < at_start + 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, by)
        return process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_and_kill_9_leave_a_run_that_the_same_command_finishes(
    checkpoint: Path, statistics: Path, tmp_path: Path, command: Command
) -> None:
    run_dir = tmp_path / "run"
    path = run_dir / "journal.jsonl"
    options = ("--fid-budget", "300%", "--reference", statistics, "--run-dir", run_dir)
    arguments = (checkpoint, *options, "--no-bundle", *QUICK)
    assert stop_during_the_sweep(arguments, path, signal.SIGINT) == 130
    interrupted = journal(run_dir)
    assert stop_during_the_sweep(arguments, path, signal.SIGKILL) == -signal.SIGKILL
    code, _, err = command(*arguments)
    assert code == 0, err
    made = journal(run_dir)
    assert set(Counter(made).values()) == {1}
    assert made[: len(interrupted)] == interrupted
    assert {s for s, _ in made} == {"proxy", "single", "recovered", "final", "factorized"}
    assert {entry.name for entry in run_dir.iterdir()} == {*FILES, "recovered"}


# -- bad input


class Dangerous:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (Path("it-ran"),)  # type: ignore[return-value]


def write_truncated(path: Path, good: Path) -> None:
    path.write_bytes(good.read_bytes()[:-5000])


def write_not_finite(path: Path, good: Path) -> None:
    checkpoint = load_checkpoint(good)
    checkpoint.generator["l1.weight"][0, 0] = float("nan")
    save_checkpoint(checkpoint, path)


def write_misfit(path: Path, good: Path) -> None:
    checkpoint = load_checkpoint(good)
    checkpoint.generator["l1.weight"] = torch.zeros(3, 3)
    save_checkpoint(checkpoint, path)


BAD_CHECKPOINTS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "missing": (lambda path, good: None, "no such file"),
    "a directory": (lambda path, good: path.mkdir(), "is a directory"),
    "empty": (lambda path, good: path.touch(), "is empty"),
    "text": (lambda path, good: path.write_text("hello"), "damaged"),
    "truncated": (write_truncated, "damaged or cut short"),
    "code": (lambda path, good: path.write_bytes(pickle.dumps(Dangerous(), 2)), "could run code"),
    "code in torch": (lambda path, good: torch.save({"a": Dangerous()}, path), "could run code"),
    "a list": (lambda path, good: torch.save([1, 2], path), "not a checkpoint but a list"),
    "not finite": (write_not_finite, "l1.weight has 1 NaN or infinite values"),
    "misfit": (write_misfit, "l1.weight is (3, 3), the network needs (128, 40)"),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # torch's word about the pickle
@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_a_bad_checkpoint_is_one_line_and_leaves_no_run_directory(
    name: str, checkpoint: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write, message = BAD_CHECKPOINTS[name]
    path = tmp_path / "bad.pt"
    write(path, checkpoint)
    code, out, err = command(path, "--fid-budget", "5%", *QUICK)
    assert (code, out) == (1, "")
    assert is_one_line(err)
    assert "bad.pt" in err or name == "misfit"
    assert message in err
    assert {entry.name for entry in tmp_path.iterdir()} <= {"bad.pt"}


BAD_OPTIONS = {
    "negative budget": ("--fid-budget=-1", "'-1' is not a budget"),
    "nan budget": ("--fid-budget=nan", "'nan' is not a budget"),
    "no budget": ("--fid-budget=abc", "'abc' is not a budget"),
    "one sample": ("--samples=1", "--samples must be at least 2"),
    "no trials": ("--max-trials=0", "--max-trials must be at least 1"),
    "no batch": ("--batch-size=0", "--batch-size must be at least 1"),
    "negative seed": ("--seed=-1", "--seed must be at least 0"),
    "no threads": ("--threads=0", "--threads must be at least 1"),
    "negative steps": ("--recover-steps=-1", "--recover-steps must be at least 0"),
    "no rate": ("--recover-lr=0", "--recover-lr must be above 0"),
    "nan rate": ("--recover-lr=nan", "--recover-lr must be above 0"),
    "no device": ("--device=toaster", "'toaster' cannot be used"),
    "no reference": ("--reference=nowhere.npz", "nowhere.npz: no such file"),
    "no builder": ("--model=nowhere:build", "--model nowhere: there is no module"),
    "no such ratio": ("--stage-ratio=1", "--stage-ratio must be above 1"),
    "no weights": ("--objective=mixed", "--objective mixed needs weights"),
    "no table": ("--latency-table=nowhere.csv", "--latency-table nowhere.csv: no such file"),
    "no precision": ("--precision=fp61", "did you mean fp16"),
    "no discriminator": ("--polish-steps=2", "tiny.pt holds no discriminator"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_a_bad_option_is_one_line_and_leaves_no_run_directory(
    name: str,
    checkpoint: Path,
    statistics: Path,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    option, message = BAD_OPTIONS[name]
    known = ("--reference", statistics) if name == "no discriminator" else ()
    code, out, err = command(checkpoint, "--fid-budget", "5%", *QUICK, *known, option)
    assert (code, out) == (1, "")
    assert ends_in_one_line(err)
    assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["x.pt"], ["x.pt", "--fid-budget", "1", "--what"]])
def test_wrong_usage_exits_2(arguments: list[str], command: Command) -> None:
    code, out, _ = command(*arguments)
    assert (code, out) == (2, "")


def test_a_checkpoint_of_unknown_data_without_a_reference_says_what_to_pass(
    tmp_path: Path, command: Command
) -> None:
    known = checkpoint_of(lively_generator())
    path = tmp_path / "unknown.pt"
    save_checkpoint(replace(known, provenance={"dataset": "unheard-of"}), path)
    options = ("--fid-budget", "5%", "--run-dir", tmp_path / "run", *QUICK)
    code, _, err = command(path, *options)
    assert code == 1
    assert ends_in_one_line(err)
    assert "unheard-of" in err
    assert "--reference" in err
    assert not (tmp_path / "run").exists()


def test_a_file_where_the_run_directory_should_be_is_one_line(
    checkpoint: Path, statistics: Path, tmp_path: Path, command: Command
) -> None:
    path = tmp_path / "run"
    path.write_text("mine")
    options = ("--fid-budget", "5%", "--reference", statistics, "--run-dir", path, *QUICK)
    code, _, err = command(checkpoint, *options)
    assert code == 1
    assert is_one_line(err)
    assert path.read_text() == "mine"


def test_a_generator_whose_images_are_not_finite_ends_in_one_line(
    checkpoint: Path, statistics: Path, tmp_path: Path, command: Command
) -> None:
    overflowing = load_checkpoint(checkpoint)
    for name in ("l1.weight", "l2.weight"):
        overflowing.generator[name].fill_(1e38)  # finite, unlike what they lead to
    path = tmp_path / "overflowing.pt"
    save_checkpoint(overflowing, path)
    options = ("--reference", statistics, "--run-dir", tmp_path / "run", "--fid-budget", "5%")
    code, out, err = command(path, *options, *QUICK)
    assert (code, out) == (1, "")
    assert err.count("error: ") == 1
    assert "l1: the output of this layer is NaN or infinite" in err.splitlines()[-1]


def test_a_generator_without_a_layer_to_factorize_ends_in_one_line(
    statistics: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thin_gan.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    net = nn.Sequential(nn.Linear(3, 192), nn.Unflatten(1, (3, 8, 8)), nn.Tanh())\n"
        "    net.latent_dim = 3\n"
        "    return net\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "thin.pt"
    torch.save({"0.weight": torch.ones(192, 3), "0.bias": torch.zeros(192)}, path)
    options = ("--reference", statistics, "--run-dir", tmp_path / "run", "--fid-budget", "5%")
    code, out, err = command(path, *options, *QUICK, "--model", "thin_gan:build")
    assert (code, out) == (1, "")
    last = "error: the generator has no layer to factorize (0: too thin to factorize (3 -> 192"
    assert err.splitlines()[-1].startswith(last)


# -- targets


def test_a_target_is_reached_at_any_rise_and_comes_first(
    arguments: tuple[str | Path, ...], command: Command, copied: Path, checkpoint: Path
) -> None:
    code, out, err = command(*arguments[:-2], "--target", "params=0.7")
    assert code == 0, err
    total = sum(p.numel() for p in build_generator(load_checkpoint(checkpoint)).parameters())
    small = build_generator(load_checkpoint(copied / "compressed.pt"))
    params = sum(p.numel() for p in small.parameters())
    assert params <= 0.7 * total
    report = json.loads((copied / "report.json").read_text())
    assert report["budget"] is None
    target = report["target"]
    assert (target["cost"], target["dense"], target["reached"]) == (params, total, True)
    answers, *_ = out.split("\n\n")
    target_line, quality = answers.index("target "), answers.index("\nquality ")
    assert target_line == 0
    assert "allowed" not in answers[quality:]
    assert (copied / "report.html").stat().st_size > 100_000


def test_a_target_beyond_the_budget_ends_with_3_and_both_plans_saved(
    arguments: tuple[str | Path, ...], command: Command, copied: Path, checkpoint: Path
) -> None:
    rates = ("--fid-budget", "1e-9", "--recover-steps", "0", "--polish-steps", "0")
    code, out, err = command(
        *arguments[:-2], *rates, "--target", "params=0.6", "--run-dir", copied.parent / "other"
    )
    assert code == 3, err
    run_dir = copied.parent / "other"
    dense = build_generator(load_checkpoint(checkpoint))
    total = sum(p.numel() for p in dense.parameters())
    within, beyond = (
        sum(p.numel() for p in build_generator(load_checkpoint(path)).parameters())
        for path in (run_dir / "compressed.pt", run_dir / "at-target" / "compressed.pt")
    )
    assert beyond <= 0.6 * total < within
    assert not json.loads((run_dir / "report.json").read_text())["target"]["reached"]
    assert "NOT reached" in out
    assert "at-target/" in out


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--target", "params=2"), 1, "above 0 and below 1"),
        (("--target", "latency=5"), 1, "needs a unit"),
        (("--target", "macs=0.5", "--objective", "latency"), 2, "--objective"),
        (("--target", "fps=60@4", "--latency-batch", "8"), 2, "--latency-batch"),
        (("--target", "params=0.5", "--precision", "int8"), 2, "--precision"),
        ((), 2, "a target"),
    ],
)
def test_a_target_that_makes_no_sense_is_one_line_and_leaves_no_directory(
    command: Command, checkpoint: Path, tmp_path: Path, options: tuple[str, ...], code: int,
    message: str,
) -> None:  # fmt: skip
    run_dir = tmp_path / "run"
    found, out, err = command(checkpoint, *options, "--run-dir", run_dir)
    assert (found, out) == (code, "")
    assert message in err
    assert not run_dir.exists()


def test_more_effort_keeps_single_layers_and_recovers_whole_plans_anew(
    arguments: tuple[str | Path, ...], command: Command, copied: Path
) -> None:
    before = journal(copied)
    more = ("--recover-steps", "3", "--samples", "80")
    code, _, err = command(*arguments, *more)
    assert code == 1
    assert "belongs to another run: samples is 64 there and 80 here" in err
    code, _, err = command(*arguments, *more, "--effort", "thorough")
    assert code in (0, 3), err
    assert journal(copied)[: len(before)] == before
    added = journal(copied)[len(before) :]
    assert {stage for stage, _ in added} >= {"recovered", "final", "factorized"}
    kept = {plan for stage, plan in before if stage == "single"}
    assert not kept & {plan for stage, plan in added if stage == "single"}
    config = json.loads((copied / "config.json").read_text())
    assert (config["effort"], config["recover_steps"]) == ("thorough", 3)
