from __future__ import annotations

import itertools
import sys
import types

import pytest

from edge_bench.power import NoPower, SampledMeter
from edge_bench.power_sources import _jtop_sensor


@pytest.fixture
def serve_jtop(monkeypatch):
    """A `jtop` module as its documentation describes it, in milliwatts."""

    def serve(power, refuses=False):
        class JtopException(Exception):
            pass

        class Client:
            def __enter__(self):
                if refuses:
                    raise JtopException("the jtop service is inactive")
                self.power = power
                return self

            def __exit__(self, *error):
                pass

        module = types.SimpleNamespace(JtopException=JtopException, jtop=Client)
        monkeypatch.setitem(sys.modules, "jtop", module)

    return serve


def measure():
    sensor = _jtop_sensor()
    if not sensor or isinstance(sensor, NoPower):
        return sensor
    meter = SampledMeter(sensor, clock=itertools.count().__next__)
    with meter:
        pass
    return meter.result()


def rails(**milliwatts):
    return {name: {"power": value} for name, value in milliwatts.items()}


def test_jtops_total_is_used_if_it_is_a_rail(serve_jtop):
    parts = rails(VDD_CPU_GPU_CV=2000, VDD_SOC=1500)
    serve_jtop({"rail": parts, "tot": {"name": "VDD_IN", "power": 6000}})
    assert measure().mean_w == 6.0


def test_jtops_sum_is_not_used_but_the_rails_that_count_once(serve_jtop):
    parts = rails(VDD_GPU_SOC=10000, VDD_CPU_CV=4000, VIN_SYS_5V0=5000, VDDQ_VDD2_1V8AO=1100)
    serve_jtop({"rail": parts, "tot": {"power": 20100}})
    assert measure().mean_w == 19.0


def test_jtops_sum_of_rails_that_are_not_the_total_is_no_power(serve_jtop):
    parts = rails(VDD_GPU=6000, VDD_CPU_SOC_MSS=6000, VIN_SYS_5V0=6500)
    serve_jtop({"rail": parts, "tot": {"power": 18500}})
    assert measure().reason.startswith("VIN, which is the total, is missing")


def test_a_service_that_does_not_run_is_passed_over(serve_jtop):
    serve_jtop({}, refuses=True)
    assert measure() is None
