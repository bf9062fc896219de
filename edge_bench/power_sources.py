"""Which sensor of this machine measures the power of what a benchmark runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edge_bench.jetson_rails import find_rails, rails_sensor, total_rails
from edge_bench.nvml import nvml_sensor
from edge_bench.power import NoPower, PowerMeter, Read, SampledMeter, Sensor
from edge_bench.rapl import rapl_sensor

ROOT = Path("/")


def find_power_meter(on_gpu: bool, root: Path = ROOT) -> PowerMeter | NoPower:
    """A meter of the first sensor that this machine has, or why there is none.

    A Jetson's rails carry all of it. Elsewhere the processor that runs the models is measured, and
    only it: an idle GPU's watts divided by images that a CPU made would not be their energy.

    Args:
        on_gpu: Whether the models run on a GPU.
        root: Where the files of the machine are.
    """
    rails = find_rails(root)
    sensor = rails_sensor(rails) if rails else _jtop_sensor()
    if sensor is None:
        sensor = nvml_sensor() if on_gpu else rapl_sensor(root)
    return sensor if isinstance(sensor, NoPower) else SampledMeter(sensor)


def _jtop_sensor() -> Sensor | NoPower | None:
    """The rails that `jtop` tells, for containers that see its socket and not the sensors."""
    try:
        from jtop import JtopException, jtop
    except ImportError:
        return None

    @contextmanager
    def source() -> Iterator[Read]:
        with ExitStack() as opened:
            try:
                client = opened.enter_context(jtop())
            except (JtopException, OSError):
                # Its service is not running, or it does not know this L4T release.
                yield dict
                return

            def read() -> dict[str, float]:
                try:
                    told = client.power
                    # Its total is either a rail by name, or a sum that may count a rail twice.
                    total = told["tot"]
                    rails = {**told["rail"], **({total["name"]: total} if "name" in total else {})}
                    return {name: rail["power"] / 1e3 for name, rail in rails.items()}
                except (JtopException, OSError, KeyError):
                    return {}

            yield read

    with source() as read:
        names = list(read())
    if not names:
        return None
    in_total = total_rails(names)
    if isinstance(in_total, NoPower):
        return in_total
    others = tuple(name for name in names if name not in in_total)
    return Sensor(source, "jtop", in_total, interval_s=0.1, others=others)
