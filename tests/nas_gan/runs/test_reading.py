import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nas_gan.errors import MissingDataError
from nas_gan.locks import LOCK, locked
from nas_gan.runs.reading import compared_settings, find_runs, grouped, read_run, thinned

NOW = 1_000_000.0


def write_run(path, *, steps=40, rows=(), config=True, age=0.0):
    path.mkdir(parents=True)
    if config:
        (path / "config.json").write_text(json.dumps({"steps": steps, "seed": 1}))
    log = path / "log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for file in path.iterdir():
        os.utime(file, (NOW - age, NOW - age))
    return path


def read(path):
    return read_run(path, clock=lambda: NOW)


ROWS = ({"step": 20, "loss/d": 0.5}, {"step": 40, "loss/d": 0.25, "fid": 3.0})


def test_a_log_becomes_one_curve_for_each_scalar(tmp_path):
    run = read(write_run(tmp_path / "a", rows=ROWS))
    assert run.scalars == {"loss/d": ((20, 0.5), (40, 0.25)), "fid": ((40, 3.0),)}
    assert (run.last_step, run.steps, run.problems) == (40, 40, ())


def test_the_lock_says_at_once_whether_a_run_goes_on(tmp_path):
    path = write_run(tmp_path / "a", steps=41, rows=ROWS)
    assert read(path).status == "stopped"
    with locked(path):
        assert read(path).status == "running"
    assert read(path).status == "stopped"
    assert read(write_run(tmp_path / "b", steps=40, rows=ROWS)).status == "finished"


def test_a_killed_run_is_stopped_at_once(tmp_path):
    path = write_run(tmp_path / "a", steps=41, rows=ROWS)
    code = (
        "import sys, time; from pathlib import Path; from nas_gan.locks import locked\n"
        "with locked(Path(sys.argv[1])): print(flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        assert read(path).status == "running"
        owner.kill()
    assert (path / LOCK).exists()
    assert read(path).status == "stopped"


def test_the_lock_of_a_grid_is_that_of_the_runs_in_it_that_log(tmp_path):
    old = write_run(tmp_path / "grid" / "a" / "seed_0", steps=41, rows=ROWS, age=9999)
    new = write_run(tmp_path / "grid" / "a" / "seed_1", steps=41, rows=ROWS)
    with locked(tmp_path / "grid"):
        assert (read(old).status, read(new).status) == ("stopped", "running")
    assert read(new).status == "stopped"


@pytest.mark.parametrize(("age", "status"), [(0, "running"), (9999, "stopped")])
def test_where_nothing_can_be_locked_the_age_of_the_log_tells(tmp_path, age, status, monkeypatch):
    monkeypatch.setattr("nas_gan.runs.reading.is_locked", lambda folder: None)
    assert read(write_run(tmp_path / "a", steps=41, rows=ROWS, age=age)).status == status


def test_the_newest_run_comes_first(tmp_path):
    for name, age in (("a", 50), ("b", 10), ("c", 90)):
        write_run(tmp_path / name, rows=ROWS, age=age)
    assert [run.name for run in find_runs(tmp_path)] == ["b", "a", "c"]


def test_the_best_fid_has_the_step_at_which_it_was_reached_first(tmp_path):
    rows = [{"step": s, "fid": v} for s, v in ((10, 9.0), (20, 4.0), (30, 4.0), (40, 7.0))]
    assert read(write_run(tmp_path / "a", rows=rows)).best_fid == (4.0, 20)
    assert read(write_run(tmp_path / "b", rows=[{"step": 1, "x": 1}])).best_fid is None


def test_the_pace_is_that_of_the_last_line_that_tells(tmp_path):
    rows = [
        {"step": 10, "pace/wall_s": 5.0},
        {"step": 20, "pace/wall_s": 9.0},
        {"step": 20, "x": 1},
    ]
    run = read(write_run(tmp_path / "a", rows=rows))
    assert (run.pace("wall_s"), run.pace("left_s")) == (9.0, None)


def test_a_line_that_is_added_is_read_and_nothing_is_forgotten(tmp_path):
    path = write_run(tmp_path / "a", rows=ROWS, steps=99)
    assert read(path).last_step == 40
    with (path / "log.jsonl").open("a") as file:
        file.write('{"step": 60, "loss/d": 0.125}\n')
    assert read(path).scalars["loss/d"] == ((20, 0.5), (40, 0.25), (60, 0.125))


def test_a_last_line_that_is_being_written_is_no_damage(tmp_path):
    path = write_run(tmp_path / "a", rows=ROWS, steps=99)
    with (path / "log.jsonl").open("a") as file:
        file.write('{"step": 60, "lo')
    assert read(path).problems == ()
    assert read(path).last_step == 40


def test_a_damaged_run_says_what_is_wrong_and_gives_the_rest(tmp_path):
    path = write_run(tmp_path / "a", rows=ROWS)
    log = (path / "log.jsonl").read_bytes()
    (path / "log.jsonl").write_bytes(b"\xff\xfe no json\n[1]\n" + log)
    (path / "config.json").write_text("{")
    run = read(path)
    assert run.status == "damaged"
    unreadable, broken = run.problems
    assert unreadable.startswith("config.json: not JSON")
    assert broken == "2 of 4 lines of log.jsonl cannot be read"
    assert len(run.scalars["loss/d"]) == 2


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "missing or cannot be opened"), ("[]", "not an object")]
)
def test_settings_that_are_not_there_are_a_problem(tmp_path, content, problem):
    path = write_run(tmp_path / "a", rows=ROWS, config=False)
    if content is not None:
        (path / "config.json").write_text(content)
    assert problem in read(path).problems[0]


def test_values_that_are_not_finite_numbers_leave_no_point(tmp_path):
    rows = ({"step": 1, "a": float("nan"), "b": "x", "c": True, "d": 2},)
    assert read(write_run(tmp_path / "a", rows=rows)).scalars == {"d": ((1, 2.0),)}


def test_samples_are_in_the_order_of_their_steps(tmp_path):
    path = write_run(tmp_path / "a")
    (path / "samples").mkdir()
    for name in ("000500.png", "1000000.png", "000020.png", "grid.png", ".000700-x.png"):
        (path / "samples" / name).touch()
    assert list(read(path).samples) == [20, 500, 1000000]


def test_evaluations_are_the_files_that_name_an_extractor(tmp_path):
    path = write_run(tmp_path / "a")
    content = {"extractor": "pixels", "comparable": False, "n": 10, "kid": {"mean": 0.5}, "x": None}
    (path / "eval.json").write_text(json.dumps(content))
    (path / "genotype.json").write_text("[[1]]")
    (path / "cut.json").write_text("{")
    [found] = read(path).evaluations
    assert (found.name, found.comparable) == ("eval.json", False)
    assert found.values == {"n": 10.0, "kid.mean": 0.5}


def test_runs_are_found_at_any_depth_and_a_compression_is_none(tmp_path):
    write_run(tmp_path / "grid" / "b", rows=ROWS, age=9)
    write_run(tmp_path / "a", rows=ROWS)
    compression = tmp_path / "small"
    compression.mkdir()
    for name in ("config.json", "journal.jsonl"):
        (compression / name).write_text("{}")
    assert [run.name for run in find_runs(tmp_path)] == ["a", str(Path("grid", "b"))]
    assert [run.name for run in find_runs(tmp_path / "a")] == ["a"]


def test_an_empty_folder_has_no_runs_and_a_missing_one_is_an_error(tmp_path):
    assert find_runs(tmp_path) == ()
    with pytest.raises(MissingDataError, match="no such folder"):
        find_runs(tmp_path / "none")


def test_scalars_are_grouped_by_what_they_are():
    names = ["loss/g", "lr/d", "fid", "is_mean", "isolated", "cell1.c0.beta/mean", "kernel/real"]
    assert grouped(names) == {
        "Losses": ("loss/g",),
        "Learning rates": ("lr/d",),
        "FID, IS and other scores": ("fid", "is_mean"),
        "Health of the scores": ("kernel/real",),
        "Activation parameters": ("cell1.c0.beta/mean",),
        "Other": ("isolated",),
    }


def test_settings_that_differ_come_first(tmp_path):
    first, second = (
        read(write_run(tmp_path / name, steps=steps)) for name, steps in (("a", 1), ("b", 2))
    )
    rows = compared_settings([first, second])
    assert list(rows.items()) == [("steps", ("1", "2")), ("seed", ("1", "1"))]


def test_thinning_keeps_the_ends_and_at_most_so_many_points():
    curve = tuple((step, float(step)) for step in range(1001))
    thin = thinned(curve, 100)
    assert len(thin) <= 101
    assert (thin[0], thin[-1]) == (curve[0], curve[-1])
    assert thinned(curve, 1001) == curve


def test_runs_are_read_without_torch():
    code = "import sys, nas_gan.runs.reading; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def break_with_pipe(path):
    path.unlink()
    os.mkfifo(path)


def break_with_device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("name", ["config.json", "log.jsonl", "fid.json", "samples/10.png"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text('{"step": Infinity, "steps": Infinity, "extractor": "x"}\n'),
        lambda path: path.write_text('{"step": 1, "x": ' + "9" * 400 + ', "extractor": "x"}\n'),
        lambda path: path.write_text('{"step": ' + "9" * 400 + "}\n"),
        lambda path: path.write_text("[" * 100_000 + "\n"),
        lambda path: path.write_text('{"a": ' * 900 + "1" + "}" * 900 + "\n"),
        lambda path: path.write_text('{"step": 1, "\\ud800": 1, "extractor": "x", "fid": 1}\n'),
        break_with_pipe,
        break_with_device,
        lambda path: path.write_bytes(b""),
    ],
    ids=["infinity", "digits", "step", "depth", "tables", "surrogate", "pipe", "device", "empty"],
)
def test_whatever_is_in_a_run_the_others_are_shown(tmp_path, name, damage):
    for run in ("bad", "good"):
        path = write_run(tmp_path / run, rows=ROWS)
        (path / "samples").mkdir(exist_ok=True)
        (path / "samples" / "10.png").write_bytes(b"PNG")
        (path / "fid.json").write_text('{"extractor": "x", "fid": 3}')
    expected = read(tmp_path / "good")
    damage(tmp_path / "bad" / name)
    bad, good = find_runs(tmp_path, clock=lambda: 0.0)
    assert bad.name == "bad"
    assert (good.scalars, good.problems) == (expected.scalars, ())
    json.dumps(bad.scalars).encode()
    for values in bad.evaluations:
        json.dumps(dict(values.values), allow_nan=False).encode()


def test_a_folder_that_must_not_be_read_is_a_problem_of_its_run(tmp_path, monkeypatch):
    for run in ("bad", "good"):
        write_run(tmp_path / run, rows=ROWS)

    def samples(folder):
        if folder.parent.name == "bad":
            raise PermissionError(13, "Permission denied")
        return {}

    monkeypatch.setattr("nas_gan.runs.reading._find_samples", samples)
    bad, good = find_runs(tmp_path)
    assert bad.status == "damaged"
    assert "Permission denied" in bad.problems[0]
    assert good.problems == ()
