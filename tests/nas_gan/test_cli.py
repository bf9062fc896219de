import errno
import io
from dataclasses import dataclass

import pytest
from rich.console import Console

from nas_gan.cli import progress, progress_bar, run
from nas_gan.errors import CheckpointError, InvalidValueError


@dataclass(frozen=True)
class Config:
    """A setting."""

    n: int = 3


def call(main, *args, **options):
    return run(main, Config, prog="prog", description="Does a thing.", args=args, **options)


def raising(error):
    def main(config):
        raise error

    return main


def test_settings_arrive_and_the_code_is_what_main_returns():
    seen: list[Config] = []
    assert call(seen.append, "--n", "5") == 0
    assert seen == [Config(5)]
    assert call(lambda config: 3) == 3


def test_the_command_line_overrides_the_default():
    seen: list[Config] = []
    assert call(seen.append, default=lambda: Config(7)) == 0
    assert call(seen.append, "--n", "1", default=lambda: Config(7)) == 0
    assert seen == [Config(7), Config(1)]


@pytest.mark.parametrize("args", [["--n", "many"], ["--m", "1"], ["stray"]])
def test_a_wrong_command_line_is_usage(args, capsys):
    assert call(raising(AssertionError("was called")), *args) == 2
    assert capsys.readouterr().err


def test_help_shows_the_description_and_the_settings(capsys):
    assert call(raising(AssertionError("was called")), "--help") == 0
    shown = capsys.readouterr().out
    assert "Does a thing." in shown
    assert "--n" in shown


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InvalidValueError("n must\n  be 4; got 3"), "error: n must\\n be 4; got 3\n"),
        (CheckpointError("a.pt is empty"), "error: a.pt is empty\n"),
        (InvalidValueError("must be 2", setting="batch_size"), "error: --batch-size must be 2\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.pt"), "error: a.pt: No such file\n"),
        (OSError("odd"), "error: odd\n"),
    ],
)
def test_an_error_of_ours_is_one_line_and_code_1(error, line, capsys):
    assert call(raising(error)) == 1
    assert capsys.readouterr().err == line


def test_another_pipe_that_breaks_is_an_error(capsys):
    assert call(raising(BrokenPipeError(errno.EPIPE, "Broken pipe"))) == 1
    assert capsys.readouterr().err == "error: Broken pipe\n"


def test_a_full_disk_is_one_line_that_says_so(capsys):
    def main(config):
        with open("/dev/full", "w") as file:  # noqa: PTH123
            file.write("x")

    assert call(main) == 1
    expected = "error: no space left on device; free some, then run the same command again\n"
    assert capsys.readouterr().err == expected


def test_memory_that_runs_out_is_one_line(capsys):
    assert call(raising(MemoryError())) == 1
    assert capsys.readouterr().err.startswith("error: out of memory;")


def test_ctrl_c_is_code_130_and_says_how_to_go_on(capsys):
    assert call(raising(KeyboardInterrupt())) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_a_bug_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        call(lambda config: 1 // 0)


def test_a_default_that_fails_is_an_error_of_ours(capsys):
    def default():
        raise InvalidValueError("preset.toml: no such preset")

    assert call(lambda config: 0, default=default) == 1
    assert capsys.readouterr().err == "error: preset.toml: no such preset\n"


def test_progress_goes_to_stderr_alone(capsys):
    with progress("measuring", 10) as advance:
        advance(4)
        advance(6)
    out, err = capsys.readouterr()
    assert out == ""
    assert "measuring" in err
    assert "10/10" in err


def test_a_bar_inside_a_bar_leaves_the_outer_one_at_its_own_count(capsys):
    with progress("outer", 2) as outer:
        for _ in range(2):
            with progress("inner", 5) as inner:
                inner(5)
            outer(1)
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "inner" not in shown.splitlines()[-1]


def test_a_bar_that_is_not_shown_draws_nothing(capsys):
    with progress("measuring", 10, shown=False) as advance:
        advance(10)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("seconds", [0.1, 10.0, 600.0])
def test_the_time_that_is_left_is_what_the_items_took_so_far(seconds):
    now = [0.0]
    bar = progress_bar(Console(file=io.StringIO()), clock=lambda: now[0])
    task = bar.add_task("recoveries", total=10)
    bar.advance(task, 0)  # as a sweep that finds nothing in its journal
    for _ in range(4):
        now[0] += seconds
        bar.advance(task, 1)
    assert bar.tasks[0].time_remaining == pytest.approx(6 * seconds, abs=1)


def test_what_a_journal_held_already_does_not_count_as_fast():
    now = [0.0]
    bar = progress_bar(Console(file=io.StringIO()), clock=lambda: now[0])
    task = bar.add_task("plans", total=100)
    bar.advance(task, 90)
    for _ in range(2):
        now[0] += 60
        bar.advance(task, 1)
    assert bar.tasks[0].time_remaining == pytest.approx(8 * 60, abs=1)
