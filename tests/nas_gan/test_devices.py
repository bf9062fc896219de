from __future__ import annotations

import pytest
import torch

from ard.session.config import SweepConfig
from nas_gan.devices import Device, full_float32
from nas_gan.evaluate import EvaluateConfig


def test_a_device_is_its_name() -> None:
    device = Device("cpu")
    assert device == "cpu"
    assert torch.zeros(1, device=device).to(device).device == torch.device(device)


def test_commands_that_send_their_device_to_workers_have_one_that_moves_there(tmp_path) -> None:
    for config in (EvaluateConfig(tmp_path, device="cuda"), SweepConfig(device="cuda")):
        assert type(config.device) is Device
        assert config.device == "cuda"


@pytest.mark.parametrize("before", [True, False])
def test_float32_is_full_in_the_block_alone_and_only_if_needed(before: bool) -> None:
    chosen = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = before
        with full_float32():
            assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.allow_tf32 == before
        with full_float32(needed=False):
            assert torch.backends.cudnn.allow_tf32 == before
    finally:
        torch.backends.cudnn.allow_tf32 = chosen
