from __future__ import annotations

import ctypes
import shutil
import subprocess

import pytest

from edge_bench.nvml import nvml_sensor
from edge_bench.power import NoPower, SampledMeter

# The calls of NVML and of CUDA's driver that are used, with their signatures from nvml.h and
# cuda.h. GPU 1 is CUDA's device 0: 60 W and, with ENERGY, 10 J more at every call.
SOURCE = """
#include <string.h>
typedef struct device *nvmlDevice_t;
static char gpus[2];
static unsigned long long energy;
int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned int *n) { *n = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, nvmlDevice_t *d)
  { *d = (nvmlDevice_t)&gpus[i]; return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, nvmlDevice_t *d)
  { *d = (nvmlDevice_t)&gpus[!strcmp(bus, "0000:41:00.0")]; return 0; }
int nvmlDeviceGetPowerUsage(nvmlDevice_t d, unsigned int *mw)
  { *mw = d == (nvmlDevice_t)&gpus[1] ? 60000 : 9000; return POWER; }
int nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t d, unsigned long long *mj)
  { *mj = energy += 10000; return ENERGY; }
const char *nvmlErrorString(int e) { return e == 3 ? "Not Supported" : "Driver/library mismatch"; }
int cuInit(unsigned int flags) { return CUDA; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetPCIBusId(char *bus, int length, int device)
  { strncpy(bus, "0000:41:00.0", length); return 0; }
"""

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture
def make_driver(tmp_path):
    """Compile a driver; a nonzero value of a call is the error that it returns."""

    def make(init=0, power=0, energy=0, cuda=0):
        (tmp_path / "driver.c").write_text(SOURCE)
        library = tmp_path / f"driver{init}{power}{energy}{cuda}.so"
        values = {"INIT": init, "POWER": power, "ENERGY": energy, "CUDA": cuda}
        defines = [f"-D{name}={value}" for name, value in values.items()]
        subprocess.run(
            ["cc", "-shared", "-fPIC", *defines, "-o", library, tmp_path / "driver.c"], check=True
        )
        return lambda name: ctypes.CDLL(str(library))

    return make


def measure(load):
    """The reading of two seconds with one sample at each end."""
    sensor = nvml_sensor(load, interval_s=60)
    if isinstance(sensor, NoPower):
        return sensor
    meter = SampledMeter(sensor, clock=iter([0.0, 2.0]).__next__)
    with meter:
        pass
    return meter.result()


def test_a_counter_of_joules_is_preferred_to_the_watts_of_the_last_second(make_driver):
    found = measure(make_driver())
    assert (found.mean_w, found.rails_in_total) == (5.0, ("gpu",))


def test_the_gpu_is_the_one_that_cuda_calls_the_first(make_driver):
    found = measure(make_driver(energy=3))
    assert (found.mean_w, found.method) == (60.0, "nvml, GPU 0000:41:00.0 only")


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ({"init": 18}, "Driver/library mismatch"),
        ({"power": 3, "energy": 3}, "Not Supported"),
        ({"cuda": 100}, "2 GPUs, and CUDA does not tell which is the first"),
    ],
)
def test_a_driver_that_refuses_is_no_power_and_its_words_are_the_reason(
    make_driver, errors, reason
):
    found = measure(make_driver(**errors))
    assert found == NoPower(f"NVML does not tell the power of this GPU: {reason}")


def test_without_a_driver_there_is_no_power():
    def load(name):
        raise OSError(f"{name}: cannot open shared object file")

    assert nvml_sensor(load) == NoPower("no libnvidia-ml.so.1, which comes with NVIDIA's driver")
