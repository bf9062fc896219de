from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from export.engines import EngineChoice
from export.manifest import BatchRange, FileEntry, Manifest, NotBuilt, TensorSpec, write_manifest
from export.summary import summary
from export.to_tensorrt import TensorRTRTX

SMALL = Manifest(
    name="model",
    onnx="model.onnx",
    files={"model.onnx": FileEntry("0" * 64, 12_345)},
    inputs=(TensorSpec("latents", "float32", ("batch", 120)),),
    outputs=(TensorSpec("images", "float32", ("batch", 3, 32, 32)),),
    n_classes=0,
    opset=18,
    precision="fp16",
    batch=BatchRange(),
    tools={},
    latents={},
    parity={"max_abs": 0.0, "psnr_db": None, "samples": 64},
    params=1000,
    macs=None,
    not_built=(NotBuilt("tensorrt-rtx", "7.5", "FP32 GEMM is not supported"),),
    dense="dense",
)
DENSE = replace(
    SMALL,
    onnx="dense.onnx",
    files={"dense.onnx": FileEntry("0" * 64, 67_890)},
    parity={"max_abs": 0.25, "psnr_db": 61.04, "samples": 64},
    params=2000,
    macs=3_000_000,
    dense=None,
)


class Absent(TensorRTRTX):
    def is_installed(self) -> bool:
        return False


def test_the_compressed_and_the_dense_model_stand_side_by_side(tmp_path: Path):
    (tmp_path / "dense").mkdir()
    write_manifest(SMALL, tmp_path)
    write_manifest(DENSE, tmp_path / "dense")
    text = summary(tmp_path, [EngineChoice(Absent()), EngineChoice(Absent(), "off")])
    rows = {line.split("  ")[0].strip(): line.split() for line in text.splitlines()}
    assert rows["params"][-2:] == ["1,000", "2,000"]
    assert rows["MACs"][-2:] == ["-", "3,000,000"]
    assert rows["ONNX bytes"][-2:] == ["12,345", "67,890"]
    assert rows["PSNR dB"][-2:] == ["equal", "61.0"]
    # What both bundles say is said once.
    assert text.count("not built for tensorrt-rtx 7.5: FP32 GEMM is not supported") == 1
    assert text.count("no tensorrt-rtx engines") == 1
    assert text.endswith(f"{tmp_path / 'manifest.json'}\n")
