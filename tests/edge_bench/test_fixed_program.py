"""Programs with fixed inputs, on the CPU; a CUDA graph where there is a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_bench.fixed_program import FixedProgram


def double_plus(z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return 2 * z + labels[:, None]


def feed_of(value: float, *labels: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((len(labels), 1), value, np.float32), np.array(labels)


def test_it_computes_the_images_of_what_was_sent_last():
    program = FixedProgram(torch, double_plus, feed_of(0.5, 1, 2), "cpu")
    program.run()
    assert program.images()[:, 0].tolist() == [2, 3]
    program.send(feed_of(4, 0, 5))
    program.run()
    assert program.images()[:, 0].tolist() == [8, 13]


def test_inputs_keep_their_addresses_and_are_no_memory_of_the_caller():
    feed = feed_of(0.5, 1)
    program = FixedProgram(torch, double_plus, feed, "cpu")
    before = [tensor.data_ptr() for tensor in program._inputs]
    program.send(feed_of(7, 1))
    assert [tensor.data_ptr() for tensor in program._inputs] == before
    assert feed[0][0, 0] == 0.5


def test_an_input_of_another_shape_is_refused():
    program = FixedProgram(torch, double_plus, feed_of(0.5, 1, 2), "cpu")
    with pytest.raises(RuntimeError):
        program.send((np.zeros((2, 3), np.float32), np.array([1, 2])))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_captured_the_reason_is_a_line_and_the_program_runs_on():
    program = FixedProgram(torch, double_plus, feed_of(0.5, 1), "cpu")
    reason = program.capture()
    assert reason is not None
    assert "\n" not in reason
    assert "NVIDIA" in reason or "CUDA" in reason  # by whether this torch was built for one
    program.send(feed_of(4, 3))
    program.run()
    assert program.images()[0, 0] == 11


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_captured_program_computes_the_images_of_what_was_sent_last():
    program = FixedProgram(torch, double_plus, feed_of(0.5, 1, 2), "cuda")
    assert program.capture() is None
    program.send(feed_of(4, 0, 5))
    program.run()
    assert program.images()[:, 0].tolist() == [8, 13]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_program_that_waits_for_the_gpu_is_not_captured_and_runs_on():
    def waits(z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return z * z.max().item() + labels[:, None]

    program = FixedProgram(torch, waits, feed_of(2, 1), "cuda")
    before = torch.cuda.current_stream()
    assert program.capture() is not None
    assert torch.cuda.current_stream() == before
    program.send(feed_of(3, 1))
    program.run()
    assert program.images()[0, 0] == 10
