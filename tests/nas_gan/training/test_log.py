import os

import pytest

from nas_gan.errors import InvalidValueError
from nas_gan.training.log import LogContent, RunLog, read_log

WHOLE = b'{"step": 1, "loss/d": 0.5}\n{"step": 2, "loss/d": 0.25}\n'


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.jsonl"


def test_a_run_that_has_not_logged_yet_has_an_empty_log(path):
    assert read_log(path) == LogContent()


def test_rows_are_in_the_order_in_which_they_were_written(path):
    path.write_bytes(WHOLE)
    rows = ({"step": 1, "loss/d": 0.5}, {"step": 2, "loss/d": 0.25})
    assert read_log(path) == LogContent(rows, n_lines=2, n_broken=0)


def test_a_line_cut_short_at_the_end_is_no_damage(path):
    path.write_bytes(WHOLE + b'{"step": 3, "lo')
    assert (len(read_log(path).rows), read_log(path).n_broken) == (2, 0)


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b"[1]", b"3", b'{"loss/d": 1}', b'{"step": NaN}', b'{"step": null}']
)
def test_a_whole_line_that_is_no_row_is_counted(path, line):
    path.write_bytes(line + b"\n\n" + WHOLE)
    log = read_log(path)
    assert (len(log.rows), log.n_lines, log.n_broken) == (2, 4, 1)


def test_a_resumed_log_goes_on_after_the_last_saved_step(path):
    path.write_bytes(WHOLE + b'{"step": 3, "loss/d": 0.1}\n{"cut')
    log = RunLog(path.parent, first=2)
    assert path.read_bytes() == WHOLE
    log.scalars(3, {"loss/d": 0.125})
    log.close()
    assert [row["step"] for row in read_log(path).rows] == [1, 2, 3]


def test_a_run_directory_that_tensorboard_cannot_write_is_refused(tmp_path):
    with pytest.raises(InvalidValueError, match="run_dir must have a name in UTF-8"):
        RunLog(tmp_path / os.fsdecode(b"\xe9"), 0)
