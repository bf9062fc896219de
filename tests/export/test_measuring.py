from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ard.errors import BudgetError
from export.__main__ import Config, main
from export.errors import ExportError
from export.manifest import read_manifest
from export.measuring import PrecisionOptions, check, read_settings
from export.quality import WITHOUT_BUDGET
from nas_gan.cli import run
from nas_gan.errors import InvalidValueError, UsageError
from nas_gan.metrics.features import ExtractorName
from nas_gan.options import help_of

pytest.importorskip("onnxsim", reason="onnxsim is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytestmark = pytest.mark.onnx
FEATURES: ExtractorName = "efficientnet-lite0"
FEW = ("--tensorrt-rtx", "off", "--samples", "2", "--no-rewrites")


def conversion(bundle: Path) -> Mapping[str, Any]:
    """The record of how the precision of a bundle came about."""
    found = read_manifest(bundle).conversion
    assert found is not None
    return found


def command(*args: object) -> int:
    texts = [str(arg) for arg in args]
    return run(main, Config, prog="python -m export", description="test", args=texts)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"precision": "auto"}, UsageError, "quality_budget is missing: auto takes the fastest"),
        ({"quality_budget": "-1%"}, BudgetError, "quality_budget '-1%' is not a budget"),
        ({"total_budget": "much"}, BudgetError, "total_budget 'much' is not a budget"),
        ({"quality_samples": 3}, InvalidValueError, "quality_samples must be at least 4; got 3"),
        ({"threads": 0}, InvalidValueError, "threads must be at least 1; got 0"),
    ],
)
def test_options_are_checked_before_anything_is_loaded(given, error, message):
    with pytest.raises(error, match=message):
        check(PrecisionOptions(**given))


def test_a_wrong_budget_is_refused_before_the_checkpoint_is_read(tmp_path, capfd):
    missing = tmp_path / "no.pt"
    assert command(missing, "--out", tmp_path / "b", "--precision", "auto") == 2
    assert capfd.readouterr().err.startswith("error: --quality-budget is missing")


def test_the_settings_of_a_run_are_those_that_it_measured_with(run_dir, statistics, tmp_path):
    found = read_settings(run_dir)
    expected = {"metric": "fid", "features": FEATURES, "reference": str(statistics)}
    assert found == {**expected, "samples": 48, "seed": 5, "batch_size": 16}
    assert read_settings(tmp_path) == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('{"metric": "fod"}', "config.json: metric 'fod' is not known"),
        ('{"features": "eyes"}', "config.json: features 'eyes' are not known"),
        ('{"samples": "many"}', "samples"),
        ("[]", "config.json"),
        ("{", "config.json: not JSON"),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(tmp_path, settings, message):
    (tmp_path / "config.json").write_text(settings)
    with pytest.raises(ExportError, match=message) as caught:
        read_settings(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_precision_that_holds_its_budget_is_delivered(checkpoint, statistics, tmp_path, capfd):
    out = tmp_path / "bundle"
    measured = ("--features", FEATURES, "--reference", statistics, "--quality-samples", 32)
    budget = ("--precision", "fp16", "--quality-budget", "1000%")
    assert command(checkpoint, "--out", out, *budget, *measured, *FEW) == 0
    record = conversion(out)
    assert (record["wanted"], record["missed"], record["budget"]) == ("fp16", False, "1000%")
    assert record["rise"]["n_samples"] == 32
    assert record["reference"] == str(statistics)
    assert "fp16: ΔFD " in capfd.readouterr().out


def test_one_that_does_not_ends_with_3_and_a_float32_bundle(
    checkpoint, statistics, tmp_path, capfd
):
    out = tmp_path / "bundle"
    measured = ("--features", FEATURES, "--reference", statistics, "--quality-samples", 32)
    budget = ("--precision", "int8", "--quality-budget", "0")
    assert command(checkpoint, "--out", out, *budget, *measured, *FEW) == 3
    assert (read_manifest(out).precision, conversion(out)["missed"]) == ("fp32", True)
    assert "int8 was not delivered: " in capfd.readouterr().out


def test_without_a_budget_what_cannot_be_measured_is_said_and_nothing_is_refused(
    checkpoint, tmp_path, capfd
):
    out = tmp_path / "bundle"
    assert command(checkpoint, "--out", out, "--precision", "fp16", *FEW) == 0
    record = conversion(out)
    assert record["rise"] is None
    assert "auto finds no statistics of toy" in record["not_measured"]
    assert "quality was not measured: " in capfd.readouterr().out
    budget = ("--precision", "fp16", "--quality-budget", 1)
    assert command(checkpoint, "--out", out, *budget, *FEW) == 1
    assert capfd.readouterr().err.count("error: ") == 1


def test_the_number_of_images_without_a_budget_is_stated():
    assert f"{WITHOUT_BUDGET} if there is no budget" in help_of(PrecisionOptions)["quality_samples"]


def test_a_run_directory_is_measured_as_the_run_measured_and_over_its_dense_generator(
    run_dir, statistics
):
    out = run_dir / "bundle"
    budgets = ("--quality-budget", "1e9", "--total-budget", "1e9")
    threads = torch.get_num_threads()
    assert command(run_dir, "--out", out, "--precision", "fp16", *budgets, *FEW) == 0
    assert torch.get_num_threads() == threads
    record = conversion(out)
    assert record["reference"] == str(statistics)
    assert record["rise"]["n_samples"] == record["rise_over_dense"]["n_samples"] == 48
    # Half precision moves the images by less than the moved weight does.
    assert abs(record["rise"]["delta_fid"]) < abs(record["rise_over_dense"]["delta_fid"])
    assert conversion(out / "dense")["rise_over_dense"] is None


def test_a_total_budget_needs_the_dense_generator(checkpoint, tmp_path, capfd):
    total = ("--precision", "fp16", "--total-budget", "1")
    assert command(checkpoint, "--out", tmp_path / "bundle", *total) == 2
    assert "error: --total-budget is a rise over the dense generator" in capfd.readouterr().err
