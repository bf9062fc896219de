import pytest

from nas_gan.errors import InvalidValueError
from nas_gan.runs.log_metrics import metrics_of, parse_metric

FIDS = [90.0, 40.0, 28.0, 31.0, 25.0, 27.0, 26.0, 60.0]
LOG = [{"step": 10.0 * i, "fid": fid} for i, fid in enumerate(FIDS, 1)] + [
    {"step": 85.0, "accuracy": accuracy} for accuracy in (0.5, 0.91, 0.8)
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fid", 60.0),
        ("best_fid", 25.0),
        ("top5_fid", (25 + 26 + 27 + 28 + 31) / 5),
        ("fid<=30", 1.0),
        ("fid<=20", 0.0),
        ("first_fid<=30", 30.0),
        ("best_accuracy", 0.91),
        ("accuracy", 0.8),
        ("top5_accuracy", (0.5 + 0.91 + 0.8) / 3),
        ("accuracy>=0.9", 1.0),
        ("first_accuracy>=0.9", 85.0),
    ],
)
def test_a_figure_of_a_log_is_the_one_worked_out_by_hand(name, value):
    assert metrics_of(LOG, [name]) == {name: pytest.approx(value)}


def test_what_a_run_never_logged_or_reached_is_left_out():
    assert metrics_of(LOG, ["kid", "first_fid<=1", "kid<=1", "loss/g"]) == {}


@pytest.mark.parametrize("name", ["first_fid", "best_fid<=3", "fid<=", "fid<=low", "fid<=nan", ""])
def test_a_name_that_says_nothing_is_refused(name):
    with pytest.raises(InvalidValueError, match="is not understood; write a scalar"):
        parse_metric(name)
