"""What `edge_bench` raises on bad input. The command line prints these as one line and exits 1."""


class EdgeBenchError(Exception):
    """Base of every error that `edge_bench` raises on purpose."""


class InvalidValueError(EdgeBenchError, ValueError):
    """An argument has a value that cannot be measured with."""


class BundleError(EdgeBenchError, ValueError):
    """A path is not a bundle, a model or an engine, or its files are damaged."""


class RunnerError(EdgeBenchError, RuntimeError):
    """A runtime is missing, or refused the model or its input."""
