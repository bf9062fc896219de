from __future__ import annotations

import pytest

from edge_bench import TimingPlan, benchmark
from edge_bench.errors import InvalidValueError, RunnerError
from edge_bench.power import NoPower, PowerReading

QUICK = TimingPlan(runs=20, warmup=2, duration_s=0, min_warmup_s=0, block=5, repeats=1)


def no_meter(on_gpu):
    return NoPower("the sensor was left at home")


class SixWatts:
    """A meter of a board that draws 6 W, for as long as a block lasts."""

    def __init__(self):
        self.blocks = 0

    def __enter__(self):
        self.blocks += 1
        return self

    def __exit__(self, *error):
        pass

    def result(self):
        watts = 4.0 if self.blocks == 1 else 6.0
        return PowerReading(watts, watts, 2, 1.0, {"VDD_IN": watts}, ("VDD_IN",), "test")


def test_every_bundle_is_measured_at_every_batch_and_compared_with_the_first(make_bundle):
    dense, small = make_bundle("dense", width=512), make_bundle("small", width=8)
    report = benchmark([dense, small], [1, 8], plan=QUICK, find_meter=no_meter)
    assert [(r.bundle, r.batch) for r in report.rows] == [
        ("dense", 1), ("small", 1), ("dense", 8), ("small", 8),
    ]  # fmt: skip
    assert [r.speedup is None for r in report.rows] == [True, False, True, False]
    for r in report.rows:
        assert r.latency.runs == 20
        assert len(r.samples_us) == 4  # rounds of 5
        assert (r.power, r.energy) == (None, None)
    assert report.no_power == "the sensor was left at home"


def test_a_model_against_itself_is_about_as_fast(make_bundle):
    bundle = make_bundle(width=256)
    plan = TimingPlan(runs=200, warmup=20, duration_s=0, repeats=1)
    report = benchmark([bundle, bundle], [64], plan=plan, find_meter=no_meter)
    # Interleaved medians on a loaded machine; far looser than what is seen, far tighter than 2.
    assert report.rows[1].speedup is not None
    assert report.rows[1].speedup.value == pytest.approx(1, abs=0.3)


def test_a_bundle_with_a_dense_counterpart_is_compared_with_it(make_bundle):
    bundle = make_bundle("bundle", changes={"dense": "dense"})
    make_bundle("bundle/dense", width=64)
    report = benchmark([bundle], [1], plan=QUICK, find_meter=no_meter)
    assert [row.bundle for row in report.rows] == ["dense", "bundle"]


def test_a_conditional_model_is_fed_labels_that_it_knows(make_bundle, make_model):
    bundle = make_bundle("bundle", changes={"n_classes": 3}, n_classes=3)
    bare = make_model(n_classes=3)
    report = benchmark([bundle, bare], [1, 8], plan=QUICK, find_meter=no_meter)
    assert [(row.bundle, row.batch) for row in report.rows] == [
        ("bundle", 1), ("tiny", 1), ("bundle", 8), ("tiny", 8),
    ]  # fmt: skip
    assert report.bundles[0].n_classes == 3
    # A label of a fourth class is an error of the runtime, so the count was used.
    wrong = make_bundle("wrong", changes={"n_classes": 4}, n_classes=3)
    with pytest.raises(RunnerError, match=r"failed at \(8, 4\) and \(8,\)"):
        benchmark([wrong], [8], plan=QUICK, find_meter=no_meter)


def test_the_times_come_from_the_clock_that_was_passed_in(make_model):
    ticks = iter(range(0, 10**9, 5000))
    report = benchmark([make_model()], [1], plan=QUICK, clock=ticks.__next__, find_meter=no_meter)
    assert (report.rows[0].latency.min_us, report.rows[0].latency.max_us) == (5, 5)
    assert report.rows[0].images_per_second == 200_000


def test_energy_is_gross_and_net_of_idle(make_model):
    ticks = iter(range(0, 10**12, 10**6))
    plan = TimingPlan(runs=20, warmup=0, duration_s=0.01, repeats=1)
    meter = SixWatts()
    report = benchmark(
        [make_model()], [4], plan=plan, clock=ticks.__next__, find_meter=lambda on_gpu: meter
    )
    # The clock moves 1 ms at each look: 10 calls of 4 images fill 10 ms. Idle is 4 W, busy 6 W.
    energy = report.rows[0].energy
    assert energy is not None
    assert energy.gross_j_per_image == pytest.approx(6 * 0.010 / 40, rel=1e-12)
    assert energy.net_j_per_image == pytest.approx(2 * 0.010 / 40, rel=1e-12)


def test_a_meter_that_fails_while_a_model_runs_leaves_its_reason(make_bundle):
    class Dies(SixWatts):
        def result(self):
            return super().result() if self.blocks < 3 else NoPower("the bus is gone")

    report = benchmark([make_bundle()], [1, 2], plan=QUICK, find_meter=lambda on_gpu: Dies())
    assert [row.power is None for row in report.rows] == [False, True]
    assert report.no_power == "the bus is gone"


@pytest.mark.parametrize("meter", [None, SixWatts()], ids=["times only", "times and power"])
def test_progress_never_goes_back_and_ends_at_one(make_bundle, meter):
    told: list[float] = []
    benchmark(
        [make_bundle("a"), make_bundle("b")], [1, 2],
        plan=QUICK, find_meter=lambda on_gpu: meter, advance=told.append,
    )  # fmt: skip
    assert told == sorted(told)
    assert told[-1] == 1


def test_images_that_are_not_numbers_are_not_timed(make_model):
    # relu gives 0 for about half of the latents, and log(0) is minus infinity.
    model = make_model(final="Log", width=1, latent_dim=1)
    with pytest.raises(RunnerError, match="not finite"):
        benchmark([model], [64], plan=QUICK, find_meter=no_meter)


def test_a_fixed_batch_is_refused_before_anything_is_timed(make_model):
    with pytest.raises(RunnerError, match="use batch size 1"):
        benchmark([make_model(batch=1)], [1, 64], plan=QUICK, find_meter=no_meter)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": [0]}, "at least 1"),
        ({"batches": []}, "at least 1"),
        ({"batches": [1, 1]}, "once"),
        ({"bundles": []}, "no bundle"),
    ],
    ids=str,
)
def test_values_that_cannot_be_measured_with_are_refused(make_model, changes, message):
    with pytest.raises(InvalidValueError, match=message):
        benchmark(**{"bundles": [make_model()], "find_meter": no_meter, **changes})
