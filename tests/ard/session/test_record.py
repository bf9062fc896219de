"""Names and fingerprints of runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import takes

from ard.measuring.metrics import metric_named
from ard.session.config import SearchConfig
from ard.session.record import fingerprint, run_directory
from nas_gan import zoo
from nas_gan.files import sha256

SETTING: Any = SimpleNamespace(
    extractor=SimpleNamespace(name="pixels", dim=16),
    metric=metric_named("fid"),
    reference=SimpleNamespace(source="hand-made"),
    interface=takes(120),
)
SHIPPED = SearchConfig(checkpoint=Path("zoo:fashion_mnist"))


def test_a_run_is_kept_under_the_name_of_its_checkpoint() -> None:
    assert run_directory(replace(SHIPPED, checkpoint=Path("old/mine.pt"))) == Path("runs/mine")
    assert run_directory(SHIPPED) == Path("runs/fashion_mnist")


def test_the_fingerprint_of_a_zoo_name_is_that_of_its_file() -> None:
    file = zoo.local_path(SHIPPED.checkpoint)
    assert fingerprint(SHIPPED, SETTING)["checkpoint"] == sha256(file)
    assert fingerprint(SHIPPED, SETTING) == fingerprint(replace(SHIPPED, checkpoint=file), SETTING)


@pytest.mark.parametrize(
    ("path", "name"), [("zoo:fashion_mnist", "fashion_mnist"), ("old/mine.pt", "mine.pt")]
)
def test_a_report_calls_a_checkpoint_by_its_short_name(path: str, name: str) -> None:
    assert zoo.display_name(Path(path)) == name
