"""Latency, throughput and energy of exported generators on the device that will run them.

It needs numpy and a runtime (ONNX Runtime or TensorRT), and nothing else from this repository.
"""

from edge_bench.pipeline import benchmark
from edge_bench.report import BenchReport
from edge_bench.timing import TimingPlan

__all__ = ["BenchReport", "TimingPlan", "benchmark"]
