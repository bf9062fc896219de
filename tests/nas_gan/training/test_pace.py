import pytest

from nas_gan.training.pace import Pace, seconds_spent, without_pace


def test_the_pace_of_a_resumed_run_counts_all_of_its_time_and_its_own_speed():
    now = [100.0]
    pace = Pace(50, 8, first=10, spent=30.0, device="cpu", clock=lambda: now[0])
    now[0] = 104.0
    first = pace.scalars(12)
    assert (first["pace/wall_s"], first["pace/images_per_s"]) == (34.0, 2 * 8 / 4)
    assert first["pace/left_s"] == pytest.approx(4.0 / 2 * 38)
    assert first["pace/memory_mib"] > 1
    now[0] = 105.0
    second = pace.scalars(20)
    assert (second["pace/wall_s"], second["pace/images_per_s"]) == (35.0, 8 * 8 / 1)
    assert second["pace/left_s"] == pytest.approx(5.0 / 10 * 30)
    assert pace.scalars(50)["pace/left_s"] == 0


def test_what_is_read_back_is_the_time_and_the_rest_of_the_row():
    rows = ({"step": 1, "pace/wall_s": 2.0}, {"step": 2, "pace/wall_s": 5.0}, {"step": 2, "fid": 1})
    assert seconds_spent(rows) == 5.0
    assert seconds_spent(()) == 0.0
    assert without_pace(rows[1]) == {"step": 2}
