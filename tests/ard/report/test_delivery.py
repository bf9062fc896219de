from __future__ import annotations

from pathlib import Path

import pytest

from ard.errors import DeliveryError
from ard.report.delivery import Demand, compare_latency, export_bundle
from nas_gan.generators import GeneratorOptions


def test_a_failed_export_is_reported_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match=r"^python -m export: .*nothing-here") as caught:
        export_bundle(tmp_path / "nothing-here", tmp_path / "bundle", GeneratorOptions(), Demand())
    assert "\n" not in str(caught.value)
    assert "error:" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_a_failed_timing_is_reported_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match=r"^python -m edge_bench: .*nothing-here"):
        compare_latency(tmp_path / "nothing-here", tmp_path / "bench", batches=[1], threads=1)
