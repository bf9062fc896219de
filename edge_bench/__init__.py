"""Latency, throughput and energy of exported generators on the device that will run them.

It needs numpy and a runtime (ONNX Runtime or TensorRT), and nothing else from this repository.
"""

from edge_bench.interrupts import end_quietly_on_interrupt

end_quietly_on_interrupt(__name__)

from edge_bench.pipeline import benchmark  # noqa: E402
from edge_bench.report import BenchReport  # noqa: E402
from edge_bench.timing import TimingPlan  # noqa: E402

__all__ = ["BenchReport", "TimingPlan", "benchmark"]
