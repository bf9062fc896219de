import pytest

from nas_gan.errors import InvalidValueError
from nas_gan.training.alarm import CollapseAlarm
from nas_gan.training.config import TrainConfig


def test_an_fid_that_stays_far_above_the_best_raises_the_alarm():
    alarm = CollapseAlarm(fid_factor=2.0, patience=2)
    seen = []
    for step, fid in enumerate([50.0, 10.0, 19.0, 21.0, 20.0, 21.0, 22.0]):
        alarm.observe(step, {"fid": fid})
        seen.append((alarm.suspicious, alarm.reason is not None))
    good, sign, raised = (False, False), (True, False), (True, True)
    assert seen == [good, good, good, sign, good, sign, raised]
    assert alarm.reason == "step 6: FID 22, over 2 times the best, 10 (2 times in a row)"


@pytest.mark.parametrize("kernel", [0.995, 0.005, 1.0, 0.0])
def test_a_kernel_near_0_or_1_raises_the_alarm_and_one_between_clears_it(kernel):
    alarm = CollapseAlarm(kernel_margin=0.01, patience=3)
    good, bad = (
        {"kernel/real": 0.6, "kernel/fake": 0.6},
        {"kernel/real": 0.6, "kernel/fake": kernel},
    )
    for scalars in (bad, bad, good, bad, {"loss/d": 1.0}, bad):
        alarm.observe(7, scalars)
        assert alarm.reason is None
    assert alarm.suspicious
    alarm.observe(8, bad)
    assert alarm.reason is not None
    assert "kernel/fake" in alarm.reason


def test_without_limits_nothing_is_a_sign():
    alarm = CollapseAlarm()
    for step in range(9):
        alarm.observe(step, {"fid": 10.0**step, "kernel/real": 1.0})
    assert (alarm.suspicious, alarm.reason) == (False, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alarm_fid_factor": 1.0, "eval_every": 5}, "^alarm_fid_factor must be above 1"),
        ({"alarm_fid_factor": float("nan"), "eval_every": 5}, "^alarm_fid_factor must be above 1"),
        ({"alarm_fid_factor": 2.0}, "^alarm_fid_factor follows the measured FID; set eval_every"),
        ({"alarm_kernel_margin": 0.5}, "^alarm_kernel_margin"),
        ({"alarm_patience": 0}, "^alarm_patience must be at least 1"),
        ({"best_gain": -1.0}, "^best_gain must be at least 0"),
        ({"on_finish": "echo 'a"}, "^on_finish is no command"),
        ({"on_finish": ""}, "^on_finish must be a command"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_setting(settings, message):
    with pytest.raises(InvalidValueError, match=message):
        TrainConfig(**settings)
