from __future__ import annotations

import contextlib
import dataclasses

import pytest

from edge_bench.power import (
    NoPower,
    PowerReading,
    SampledMeter,
    Sensor,
    energy_per_image,
    reading,
    thinned,
)


def sensor_of(read, **changes):
    values = dict(
        source=lambda: contextlib.nullcontext(read), method="test", in_total=("a",), interval_s=60
    )
    return Sensor(**{**values, **changes})


SENSOR = sensor_of(dict)
PARTS = dataclasses.replace(SENSOR, others=("b",))


def test_the_mean_weighs_samples_by_the_time_between_them():
    # 2 W for 9 s, then up to 4 W within 1 s: (18 + 3) / 10.
    found = reading([0.0, 9.0, 10.0], [{"a": 2.0}, {"a": 2.0}, {"a": 4.0}], SENSOR)
    assert isinstance(found, PowerReading)
    assert (found.mean_w, found.peak_w, found.sample_rate_hz) == (2.1, 4.0, 0.2)


def test_a_single_sample_is_no_reading():
    assert isinstance(reading([1.0], [{"a": 2.0}], SENSOR), NoPower)
    assert isinstance(reading([], [], SENSOR), NoPower)
    assert isinstance(reading([1.0, 1.0], [{"a": 2.0}] * 2, SENSOR), NoPower)


def test_a_rail_that_misses_one_sample_is_bridged():
    found = reading([0.0, 1.0, 4.0], [{"a": 1.0}, {}, {"a": 3.0}], SENSOR)
    assert isinstance(found, PowerReading)
    assert (found.mean_w, found.samples) == (2.0, 2)


def test_a_total_that_misses_more_than_a_tenth_of_the_samples_is_no_power():
    samples = [{"a": 1.0}] * 17 + [{}] * 3
    times = [float(n) for n in range(20)]
    assert reading(times, samples, SENSOR) == NoPower(
        "a, which the total needs, answered 17 of 20 times"
    )
    assert isinstance(reading(times, samples[1:] + samples[:1], SENSOR), NoPower)
    assert isinstance(reading(times, samples[:18] + samples[:2], SENSOR), PowerReading)


def test_a_rail_beside_the_total_is_averaged_over_the_samples_that_it_answered():
    samples = [{"a": 5.0, "b": 1.0}, {"a": 5.0}, {"a": 5.0, "b": 3.0}, {"a": 5.0}]
    found = reading([0.0, 1.0, 2.0, 3.0], samples, PARTS)
    assert isinstance(found, PowerReading)
    assert (found.rails_mean_w, found.rails_left_out) == ({"a": 5.0, "b": 2.0}, ())


def test_a_rail_beside_the_total_that_never_answers_is_left_out_by_name():
    found = reading([0.0, 1.0], [{"a": 5.0}, {"a": 5.0}], PARTS)
    assert isinstance(found, PowerReading)
    assert (found.mean_w, found.rails_left_out) == (5.0, ("b",))


def test_the_peak_of_a_counter_is_its_steepest_rise():
    counter = dataclasses.replace(SENSOR, wraps_j={"a": 100.0})
    # 8 J in 4 s, then 90 to 100 and on to 2: 12 J in 2 s.
    found = reading([0.0, 4.0, 6.0], [{"a": 82.0}, {"a": 90.0}, {"a": 2.0}], counter)
    assert isinstance(found, PowerReading)
    assert found.mean_w == pytest.approx(20 / 6, rel=1e-12)
    assert found.peak_w == 6.0


def test_a_counter_that_falls_and_never_wraps_is_no_power():
    counter = dataclasses.replace(SENSOR, wraps_j={})
    found = reading([0.0, 1.0], [{"a": 9.0}, {"a": 1.0}], counter)
    assert found == NoPower("test started again at 0 meanwhile")


def test_a_reading_keeps_its_samples_from_the_first_on():
    found = reading([5.0, 6.0, 7.5], [{"a": 1.0}, {"a": 3.0}, {"a": 2.0}], SENSOR)
    assert isinstance(found, PowerReading)
    assert found.series == ((0.0, 1.0), (1.0, 3.0), (2.5, 2.0))


def test_of_a_counter_a_sample_is_the_power_between_two():
    counter = dataclasses.replace(SENSOR, wraps_j={"a": 100.0})
    found = reading([0.0, 4.0, 6.0], [{"a": 82.0}, {"a": 90.0}, {"a": 2.0}], counter)
    assert isinstance(found, PowerReading)
    assert found.series == ((2.0, 2.0), (5.0, 6.0))  # 8 J in 4 s, 12 J in 2 s


@pytest.mark.parametrize("n", [1, 2, 199, 200, 201, 12_345])
def test_a_thinned_series_keeps_its_ends_and_its_order(n):
    samples = [(float(i), 2.0 * i) for i in range(n)]
    kept = thinned(samples)
    assert len(kept) == min(n, 200)
    assert (kept[0], kept[-1]) == (samples[0], samples[-1])
    assert list(kept) == sorted(set(kept))
    assert all(power == 2 * moment for moment, power in kept)


def test_energy_is_power_times_time_shared_by_the_images():
    energy = energy_per_image(mean_w=6.0, duration_s=2.0, images=100, idle_w=4.5)
    assert (energy.gross_j_per_image, energy.net_j_per_image) == (0.12, 0.03)
    assert energy_per_image(6.0, 2.0, 100, None).net_j_per_image is None


def test_a_meter_starts_afresh_in_each_block():
    watts = iter([1.0, 1.0, 9.0, 9.0])
    clock = iter([0.0, 1.0, 2.0, 3.0])
    meter = SampledMeter(sensor_of(lambda: {"a": next(watts)}), clock.__next__)
    found = []
    for _ in range(2):
        with meter:
            pass
        result = meter.result()
        assert isinstance(result, PowerReading)
        found.append(result.mean_w)
    assert found == [1.0, 9.0]


def test_the_sensor_is_closed_and_the_thread_ended_after_the_block():
    events: list[str] = []

    def read():
        events.append("read")
        return {"a": 1.0}

    @contextlib.contextmanager
    def source():
        events.append("open")
        yield read
        events.append("closed")

    with SampledMeter(sensor_of(read, source=source)):
        pass
    assert events == ["open", "read", "read", "closed"]
