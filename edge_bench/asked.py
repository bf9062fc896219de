"""How a runtime is asked to run a model, and what its times then cover."""

from __future__ import annotations

from dataclasses import dataclass

from edge_bench.errors import InvalidValueError

NONE, IN, OUT, BOTH = TRANSFERS = ("none", "in", "out", "both")


@dataclass(frozen=True)
class RunSettings:
    """How a runtime is asked to run a model.

    Attributes:
        threads: Number of CPU threads.
        transfers: Which copies between the host and a GPU each timed call makes: those of the
            inputs (`in`), of the images (`out`), `both` or `none`.
        cuda_graph: Whether the kernels of a call are launched as one CUDA graph.

    Raises:
        InvalidValueError: There is no thread, or no such transfer.
    """

    threads: int = 1
    transfers: str = BOTH
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise InvalidValueError(f"must be at least 1; got {self.threads}", setting="threads")
        if self.transfers not in TRANSFERS:
            raise InvalidValueError(
                f"is one of {', '.join(TRANSFERS)}; got {self.transfers!r}", setting="transfers"
            )

    @property
    def sends_inputs(self) -> bool:
        """Whether a timed call copies the inputs to the GPU."""
        return self.transfers in (IN, BOTH)

    @property
    def fetches_images(self) -> bool:
        """Whether a timed call copies the images to the host."""
        return self.transfers in (OUT, BOTH)

    def covers(self, refused: str | None) -> Covers:
        """What the times of calls on a GPU cover.

        Args:
            refused: Why the kernels were not launched as a graph; None if nothing kept them.
        """
        return Covers(self.transfers, self.cuda_graph and refused is None, refused)


@dataclass(frozen=True)
class Covers:
    """What the times of a row cover.

    Attributes:
        transfers: Which copies between the host and the GPU are inside; None where the model runs
            in host memory.
        cuda_graph: Whether the kernels were launched as one CUDA graph.
        no_cuda_graph: Why they were not, if that was asked for.
    """

    transfers: str | None = None
    cuda_graph: bool = False
    no_cuda_graph: str | None = None

    def __str__(self) -> str:
        if self.transfers is None:
            text = "times are of the model in host memory"
        else:
            text = {
                NONE: "times are without copies between host and GPU",
                IN: "times include the copy of the inputs to the GPU, not that of the images",
                OUT: "times include the copy of the images to the host, not that of the inputs",
                BOTH: "times include the copies of the inputs to the GPU and of the images back",
            }[self.transfers]
        if self.cuda_graph:
            text += ", launched as a CUDA graph"
        if self.no_cuda_graph is not None:
            text += f"; without a CUDA graph: {self.no_cuda_graph}"
        return text


def in_host_memory(settings: RunSettings) -> Covers:
    """What the times of a runtime cover that runs on the CPU."""
    return Covers(no_cuda_graph="it runs on the CPU" if settings.cuda_graph else None)
