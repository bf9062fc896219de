import math

import pytest

from nas_gan.errors import InvalidValueError
from nas_gan.training.upper_bound import UpperBoundSchedule


def after_validations(schedule, fids):
    values = []
    for fid in fids:
        schedule.validated(fid)
        values.append(schedule.value)
    return values


def test_the_bound_doubles_every_thirty_epochs_without_an_improvement():
    # One validation every 5 epochs; only the one at epoch 0 improves.
    values = after_validations(UpperBoundSchedule("saturate"), [10.0] * 31)
    bounds = dict(zip(range(0, 151, 5), values, strict=True))
    assert [bounds[epoch] for epoch in (0, 25, 30, 55, 60, 90, 120, 150)] == [
        4, 4, 8, 8, 16, 32, 64, 64,
    ]  # fmt: skip


def test_an_improvement_starts_the_patience_again():
    schedule = UpperBoundSchedule("saturate", patience=3)
    assert after_validations(schedule, [9, 9, 9, 8, 8, 8, 8]) == [4, 4, 4, 4, 4, 4, 8]


def test_the_linear_variant_adds():
    schedule = UpperBoundSchedule("saturate_linear", increase=5, end=12, patience=1)
    assert after_validations(schedule, [1, 1, 1, 1]) == [4, 9, 12, 12]


def test_a_fid_that_is_not_a_number_is_no_improvement():
    schedule = UpperBoundSchedule("saturate", patience=2)
    assert after_validations(schedule, [math.nan, math.nan]) == [4, 8]
    assert schedule.best_fid == math.inf


def test_the_geometric_bound_follows_the_progress_of_the_run():
    schedule = UpperBoundSchedule("geometric", end=1024)
    for epoch, expected in ((0, 4), (250, 64), (500, 1024), (600, 1024)):
        schedule.progressed(epoch / 500)
        assert schedule.value == pytest.approx(expected, rel=1e-15)
    schedule.validated(1.0)
    assert schedule.value == 1024


def test_a_fixed_bound_never_moves():
    schedule = UpperBoundSchedule("fixed", start=8)
    schedule.progressed(0.5)
    assert after_validations(schedule, [1.0] * 20) == [8] * 20


@pytest.mark.parametrize("cut", [0, 1, 4, 7])
def test_a_schedule_goes_on_from_its_state(cut):
    fids = [9, 8, 8, 8, 7, 9, 9, 9, 9, 9]
    whole = after_validations(UpperBoundSchedule("saturate", patience=3), fids)
    first, second = (UpperBoundSchedule("saturate", patience=3) for _ in range(2))
    head = after_validations(first, fids[:cut])
    second.load_state_dict(first.state_dict())
    assert head + after_validations(second, fids[cut:]) == whole


@pytest.mark.parametrize(
    "arguments",
    [
        dict(start=0.0),
        dict(start=8.0, end=4.0),
        dict(end=math.nan),
        dict(increase=1.0),
        dict(procedure="saturate_linear", increase=0.0),
    ],
)
def test_a_bound_that_would_not_rise_is_refused(arguments):
    with pytest.raises(InvalidValueError):
        UpperBoundSchedule(**arguments)
