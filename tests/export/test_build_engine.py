from __future__ import annotations

import ast
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from export import build_engine
from export.build_engine import BuildError
from export.manifest import (
    BatchRange,
    FileEntry,
    Manifest,
    TensorSpec,
    write_manifest,
)


@pytest.fixture
def bundle(generator_onnx: Path, tmp_path: Path) -> Path:
    inputs = (TensorSpec("latents", "float32", ("batch", 120)),)
    return bundle_of(generator_onnx, tmp_path, inputs, ("batch", 3, 32, 32))


@pytest.fixture
def conditional_bundle(conditional_onnx: Path, tmp_path: Path) -> Path:
    inputs = (
        TensorSpec("latents", "float32", ("batch", 6)),
        TensorSpec("labels", "int64", ("batch",)),
    )
    return bundle_of(conditional_onnx, tmp_path, inputs, ("batch", 1, 8, 8))


def bundle_of(
    graph: Path, tmp_path: Path, inputs: tuple[TensorSpec, ...], images: tuple[int | str, ...]
) -> Path:
    """What the script needs of a bundle, with the script in it."""
    shutil.copy(graph, tmp_path / "model.onnx")
    shutil.copy(build_engine.__file__, tmp_path / "build_engine.py")
    manifest = Manifest(
        name="model",
        onnx="model.onnx",
        files={"model.onnx": FileEntry.of(tmp_path / "model.onnx")},
        inputs=inputs,
        outputs=(TensorSpec("images", "float32", images),),
        opset=18,
        precision="fp32",
        batch=BatchRange(1, 8, 64),
        tools={},
        latents={},
        parity={},
        params=0,
        n_classes=0,
    )
    write_manifest(manifest, tmp_path)
    return tmp_path


def script(bundle: Path, *args: str, bare: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the bundle's own copy; `bare` hides our packages and everything that pip installed."""
    flags = ["-I", "-S"] if bare else ["-I"]
    command = [sys.executable, *flags, str(bundle / "build_engine.py"), *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=bundle)


def test_the_script_is_python_3_10_and_imports_only_the_standard_library():
    tree = ast.parse(Path(build_engine.__file__).read_text(), feature_version=(3, 10))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {
        node.module if isinstance(node, ast.ImportFrom) else alias.name
        for node in imports
        for alias in node.names
    }
    assert names <= sys.stdlib_module_names


def test_help_needs_nothing_but_python(bundle):
    done = script(bundle, "--help")
    assert done.returncode == 0
    assert "--workspace-mib" in done.stdout


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(bundle):
    before = sorted(bundle.iterdir())
    done = script(bundle, "--dry-run", "--batch", "1", "2", "4", "--workspace-mib", "256")
    assert (done.returncode, done.stderr) == (0, "")
    assert "would build model.engine from model.onnx (fp32, batch 1 to 4" in done.stdout
    assert (
        "trtexec --onnx=model.onnx --saveEngine=model.engine --stronglyTyped "
        "--minShapes=latents:1x120 --optShapes=latents:2x120 --maxShapes=latents:4x120 "
        "--memPoolSize=workspace:256\n"
    ) in done.stdout
    assert "--fp16" not in done.stdout
    assert sorted(bundle.iterdir()) == before


def test_each_input_of_a_conditional_generator_has_its_batch_range(conditional_bundle):
    done = script(conditional_bundle, "--dry-run", "--batch", "1", "2", "4")
    assert (
        "--minShapes=latents:1x6,labels:1 --optShapes=latents:2x6,labels:2 "
        "--maxShapes=latents:4x6,labels:4 "
    ) in done.stdout


@pytest.mark.tensorrt
def test_it_builds_the_engine_of_a_conditional_generator(conditional_bundle):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    args = ["--module", "tensorrt_rtx", "--batch", "1", "2", "4"]
    done = script(conditional_bundle, *args, bare=False)
    assert done.returncode == 0, done.stderr
    assert (conditional_bundle / "model.engine").read_bytes().startswith(b"vtrt")


def test_without_tensorrt_one_line_says_where_it_comes_from(bundle):
    done = script(bundle)
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot import tensorrt")
    assert done.stderr.count("\n") == 1


def test_a_changed_graph_is_refused(bundle):
    whole = (bundle / "model.onnx").read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    for changed, message in ((flipped, "sha256"), (whole + b"\0", "not as large")):
        (bundle / "model.onnx").write_bytes(changed)
        done = script(bundle, "--dry-run")
        assert done.returncode == 1
        assert f"model.onnx: {message}" in done.stderr


@pytest.mark.parametrize("args", [["--batch", "4", "2", "8"], ["--workspace-mib", "0"]])
def test_wrong_usage_exits_with_2(bundle, args):
    assert script(bundle, *args).returncode == 2


@pytest.mark.tensorrt
def test_it_builds_an_engine_once_and_again_when_the_engine_does_not_fit(bundle):
    # TensorRT-RTX has the interface of TensorRT and builds without a GPU.
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    args = ["--module", "tensorrt_rtx", "--batch", "1", "2", "4", "--no-tf32"]
    first = script(bundle, *args, bare=False)
    assert first.returncode == 0, first.stderr
    engine, record = bundle / "model.engine", json.loads((bundle / "engine.json").read_text())
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert record["bytes"] == engine.stat().st_size > 100_000
    assert record["onnx_sha256"] == manifest["files"]["model.onnx"]["sha256"]
    assert record["tensorrt"]["module"] == "tensorrt_rtx"
    assert "nothing to do" in script(bundle, *args, bare=False).stdout
    engine.write_bytes(b"cut off")
    assert script(bundle, *args, bare=False).returncode == 0
    assert engine.stat().st_size == record["bytes"]


@pytest.mark.parametrize("key", ["onnx_sha256", "tensorrt", "device", "l4t", "batch"])
def test_an_engine_of_another_device_or_graph_is_not_current(tmp_path, key):
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"engine")
    wanted = dict(onnx_sha256="a", tensorrt="10.3", device="Orin", l4t="36.4.3", batch=[1, 8, 64])
    digest = FileEntry.of(engine).sha256
    (tmp_path / "engine.json").write_text(json.dumps({**wanted, "sha256": digest}))
    assert build_engine.is_current(engine, wanted)
    assert not build_engine.is_current(engine, {**wanted, key: "other"})


# The flags that these releases have, as far as the choice depends on them.
TENSORRT_10 = SimpleNamespace(
    NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0, STRONGLY_TYPED=1),
    BuilderFlag=SimpleNamespace(FP16=0, TF32=7),
    __version__="10.3.0",
)
WITHOUT_FLAG = SimpleNamespace(
    NetworkDefinitionCreationFlag=SimpleNamespace(),
    BuilderFlag=SimpleNamespace(TF32=7),
    __version__="12.0",
)
TENSORRT_8 = SimpleNamespace(
    NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0),
    BuilderFlag=SimpleNamespace(FP16=0, TF32=7),
    __version__="8.5.2",
)


def test_strong_typing_is_asked_for_where_it_is_a_choice():
    assert build_engine.strongly_typed_flag(TENSORRT_10) == 0b10
    assert build_engine.strongly_typed_flag(WITHOUT_FLAG) == 0
    with pytest.raises(BuildError, match=r"8\.5\.2 knows no strongly typed networks"):
        build_engine.strongly_typed_flag(TENSORRT_8)


def test_a_build_that_memory_does_not_allow_is_refused_before_it_starts():
    mib = 1 << 20
    needed = 512 + build_engine.BASE_MIB + 4 * 10
    build_engine.check_memory(10 * mib, 512, needed * mib)
    build_engine.check_memory(10 * mib, 512, None)
    with pytest.raises(BuildError, match=rf"the build may take {needed}; lower --workspace-mib"):
        build_engine.check_memory(10 * mib, 512, needed * mib - 1)


def test_the_l4t_release_is_read_from_its_file():
    text = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n# K\n"
    assert build_engine.parse_l4t(text) == "36.4.3"
    assert build_engine.parse_l4t("something else\n") == "something else"


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "", ".", "a\nb", "$(touch x)|", 7])
@pytest.mark.parametrize("key", ["name", "onnx"])
def test_a_name_that_leads_out_of_the_bundle_is_refused_before_anything_is_written(
    bundle, key, name
):
    manifest = json.loads((bundle / "manifest.json").read_text())
    entry = next(iter(manifest["files"].values()))
    files = {**manifest["files"], str(name): entry}
    (bundle / "manifest.json").write_text(json.dumps({**manifest, key: name, "files": files}))
    before = sorted(bundle.parent.rglob("*"))
    done = script(bundle, "--module", "tensorrt_rtx")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert sorted(bundle.parent.rglob("*")) == before


@pytest.mark.parametrize("linked", ["model.onnx", "model.engine", "engine.json"])
def test_a_link_does_not_lead_it_out_of_the_bundle(bundle, linked):
    outside = bundle.parent / "outside"
    outside.write_bytes((bundle / "model.onnx").read_bytes())
    (bundle / linked).unlink(missing_ok=True)
    (bundle / linked).symlink_to(outside)
    done = script(bundle, "--dry-run")
    assert done.returncode == 1
    assert "outside of the bundle" in done.stderr


@pytest.mark.parametrize(
    "text",
    ["", "[", "[" * 100_000, "[]", "{}", '{"format": 1}', "\0", "9" * 5000, '{"format": true}'],
)
def test_a_manifest_that_is_none_is_one_line(bundle, text):
    (bundle / "manifest.json").write_text(text)
    done = script(bundle, "--dry-run")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch", {"min": 8, "opt": 4, "max": 2}),
        ("batch", {"min": True, "opt": 4, "max": 8}),
        ("batch", None),
        ("inputs", []),
        ("inputs", [{"name": "latents"}]),
        ("outputs", {}),
        ("files", []),
        ("precision", 16),
    ],
)
def test_an_unusable_value_of_the_manifest_is_named(bundle, key, value):
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, key: value}))
    done = script(bundle, "--dry-run")
    assert done.returncode == 1
    assert f"{key} is missing or unusable" in done.stderr


def test_what_goes_into_a_line_of_a_shell_is_quoted():
    manifest = {
        "name": "my model",
        "onnx": "a & b.onnx",
        "inputs": [{"name": "z", "dtype": "float32", "shape": ["batch", 4]}],
    }
    words = shlex.split(build_engine.trtexec_line(manifest, (1, 2, 4), 64))
    assert words[1:3] == ["--onnx=a & b.onnx", "--saveEngine=my model.engine"]
    assert len(words) == 8


def with_precision(bundle: Path, precision: str) -> None:
    path = bundle / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"precision": precision}))


@pytest.mark.parametrize(
    ("precision", "args", "said"),
    [
        ("fp32", [], "--precision fp16"),
        ("fp16", [], "one batch size; give it as --batch 8 8 8"),
        ("int8", ["--batch", "1", "2", "2"], "--batch 2 2 2"),
    ],
)
def test_what_the_accelerator_does_not_take_is_said_before_tensorrt_is_loaded(
    bundle, precision, args, said
):
    with_precision(bundle, precision)
    done = script(bundle, "--dla", "0", *args)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert said in done.stderr


@pytest.mark.tensorrt
def test_a_device_without_an_accelerator_says_so(bundle):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    with_precision(bundle, "fp16")
    args = ["--dla", "0", "--batch", "2", "2", "2", "--module", "tensorrt_rtx"]
    done = script(bundle, *args, bare=False)
    assert done.returncode == 1
    assert "this device has no deep learning accelerator" in done.stderr.splitlines()[-1]
    assert not (bundle / "model.engine").exists()
