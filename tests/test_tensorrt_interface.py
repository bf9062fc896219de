"""Every use of TensorRT's interface is checked against NVIDIA's own bindings, without a GPU.

The bindings are on the package registry; the libraries below them are not. Empty libraries that
export the few functions the bindings are linked with let them be imported: every class, flag and
signature is there, and nothing can be built. TensorRT-RTX is what really builds, in other tests.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import pytest
import tensorrt_interface
from tensorrt_interface import Classes, Touch, touches

from edge_bench import engine_profile, layer_timing, tensorrt_runner
from export import build_engine

# The oldest version that is supported, which JetPack 6.1 and 6.2 ship, and the newest one.
BINDINGS = {
    "10.3": ("tensorrt-cu12-bindings==10.3.0", "10"),
    "11.4": ("tensorrt-cu13-bindings==11.4.0.106", "11"),
}

STUBS = """
#define STUB(name) void *name(void) { return 0; }
STUB(createInferBuilder_INTERNAL) STUB(createInferRefitter_INTERNAL)
STUB(createInferRuntime_INTERNAL) STUB(createNvOnnxParser_INTERNAL)
STUB(createNvOnnxParserRefitter_INTERNAL) STUB(getBuilderPluginRegistry)
STUB(getPluginRegistry) STUB(getNvOnnxParserVersion) STUB(initLibNvInferPlugins)
"""

BUILDING: Classes = {
    "trt": "", "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser",
    "config": "IBuilderConfig", "profile": "IOptimizationProfile", "tensor": "ITensor",
    "logger": None, "engine": None, "flag": None, "reason": None, "cores": None,
    "cache": "ITimingCache", "layers": None, "layer": "ILayer",
}  # fmt: skip
RUNNING: Classes = {
    "trt": "", "runtime": "Runtime", "self._engine": "ICudaEngine", "logger": None,
    "self._context": "IExecutionContext", "sizes": None, "found": None, "low": None, "_": None,
    "high": None, "inspector": "EngineInspector", "self._profiler": "IProfiler", "self._told": None,
}  # fmt: skip
SOURCES: dict[str, tuple[Path, Classes]] = {
    "build_engine": (Path(build_engine.__file__), BUILDING),
    "layer_timing": (Path(layer_timing.__file__), BUILDING),
    "engine_profile": (Path(engine_profile.__file__), RUNNING),
    "tensorrt_runner": (Path(tensorrt_runner.__file__), RUNNING),
}


@pytest.fixture(scope="session")
def bindings(tmp_path_factory):
    """Environment variables with which a process imports each version of the bindings."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler for the empty libraries")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("the bindings on the registry are for Linux on x86-64")
    environments = {}
    for version, (requirement, suffix) in BINDINGS.items():
        libraries = tmp_path_factory.mktemp(f"libraries{suffix}")
        (libraries / "stubs.c").write_text(STUBS)
        for name in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
            file = f"lib{name}.so.{suffix}"
            command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", file, "stubs.c"]
            subprocess.run(command, check=True, cwd=libraries)
        paths = [str(installed(requirement)), str(Path(tensorrt_interface.__file__).parent)]
        environments[version] = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "LD_LIBRARY_PATH": str(libraries),
        }
    return environments


def installed(requirement: str) -> Path:
    """The folder of a package that is kept outside of the repository and of the environment."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    tag = f"{requirement}-{sys.implementation.cache_tag}"
    folder = cache / "ard-gan" / "tensorrt" / tag
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            command += ["--disable-pip-version-check", "--only-binary=:all:", "--retries", "1"]
            command += ["--timeout", "20", "--target", f"{partial}/{tag}", requirement]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
            if done.returncode:
                last = (done.stderr.strip() or "no reason given").splitlines()[-1]
                pytest.skip(f"{requirement} cannot be installed: {last}")
            try:
                Path(partial, tag).rename(folder)
            except OSError:  # another process was faster
                if not folder.is_dir():
                    raise
    return folder


def check(touched: list[Touch], environment: dict[str, str]) -> tuple[str, dict[Touch, str]]:
    """The version of the bindings, and the touches that they do not have, each with the reason."""
    done = subprocess.run(
        [sys.executable, "-m", "tensorrt_interface"],
        input=json.dumps([asdict(touch) for touch in touched]),
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    found = {
        Touch(**{**touch, "keywords": tuple(touch["keywords"])}): reason
        for touch, reason in answer["problems"]
    }
    return answer["version"], found


def reasons(source: str, classes: Classes, bindings) -> dict[str, list[str]]:
    """What is wrong, by version; an attribute that is asked for may be in one only."""
    touched = touches(source, classes)
    found = {version: check(touched, bindings[version])[1] for version in BINDINGS}
    nowhere = set.intersection(*(set(problems) for problems in found.values()))
    return {
        version: [why for touch, why in problems.items() if not touch.optional or touch in nowhere]
        for version, problems in found.items()
    }


def test_the_bindings_are_those_of_the_oldest_and_the_newest_version(bindings):
    for version in BINDINGS:
        assert check([], bindings[version])[0].startswith(version)


@pytest.mark.parametrize("source", SOURCES)
def test_everything_that_is_called_exists_in_both_versions_with_these_arguments(source, bindings):
    path, classes = SOURCES[source]
    assert reasons(path.read_text(), classes, bindings) == {"10.3": [], "11.4": []}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("build_engine", {"OnnxParser.parse", "ParserError.desc", "BuilderFlag.TF32",
                          "ILogger.Severity.WARNING", "ITensor.shape", "BuilderFlag.FP16",
                          "IOptimizationProfile.set_shape", "MemoryPoolType.WORKSPACE"}),
        ("layer_timing", {"Logger.ERROR", "Builder.build_serialized_network",
                          "NetworkDefinitionCreationFlag.STRONGLY_TYPED"}),
        ("engine_profile", {"EngineInspector.get_engine_information", "IProfiler.__init__",
                            "LayerInformationFormat.JSON", "ICudaEngine.create_engine_inspector",
                            "IExecutionContext.profiler"}),
        ("tensorrt_runner", {"Runtime.deserialize_cuda_engine", ".nptype", "TensorIOMode.OUTPUT",
                             "IExecutionContext.execute_async_v3",
                             "ICudaEngine.get_tensor_profile_shape"}),
    ],
)  # fmt: skip
def test_what_is_touched_is_found_in_the_source(source, expected):
    path, classes = SOURCES[source]
    found = {f"{touch.owner}.{touch.name}" for touch in touches(path.read_text(), classes)}
    assert expected <= found


@pytest.mark.parametrize(
    ("source", "old", "new"),
    [
        ("build_engine", "build_serialized_network", "build_serialised_network"),
        ("build_engine", "MemoryPoolType.WORKSPACE", "MemoryPoolType.WORKSPACES"),
        ("build_engine", '"STRONGLY_TYPED"', '"STRONGLY_TYPES"'),
        ("build_engine", "get_error(place).desc()", "get_error(place).description()"),
        ("build_engine", "config.clear_flag(trt.BuilderFlag.TF32)", "config.clear_flag()"),
        ("build_engine", "parser.parse(onnx)", "parser.parse(onnx, 1, 2)"),
        ("build_engine", "parser.parse(onnx)", "parser.parse(buffer=onnx)"),
        ("build_engine", "trt.ILogger.__init__(self)", "trt.ILogger.__init__(self, 1)"),
        ("build_engine", "tensor.name", "tensor.title"),
        ("layer_timing", "trt.OnnxParser(network, logger)", "trt.OnnxParser(network)"),
        ("build_engine", "ProfilingVerbosity.DETAILED", "ProfilingVerbosity.VERBOSE"),
        ("engine_profile", "create_engine_inspector", "create_inspector"),
        ("engine_profile", "self._context.profiler", "self._context.profilers"),
        ("engine_profile", "get_engine_information(trt", "get_engine_information(0, trt"),
        ("engine_profile", "LayerInformationFormat.JSON", "LayerInformationFormat.Json"),
        ("engine_profile", "class Profiler(trt.IProfiler)", "class Profiler(trt.Profilers)"),
        ("tensorrt_runner", "execute_async_v3", "execute_async_v4"),
        ("tensorrt_runner", "self._engine.num_io_tensors", "self._engine.num_bindings"),
        (
            "tensorrt_runner",
            "tensor_profile_shape(spec.name, 0)",
            "tensor_profile_shape(spec.name)",
        ),
        ("tensorrt_runner", "trt.nptype(found)", "trt.nptype()"),
        ("tensorrt_runner", "TensorIOMode.INPUT", "TensorIOMode.IN"),
    ],
)
def test_a_misspelt_call_fails_in_both_versions(source, old, new, bindings):
    path, classes = SOURCES[source]
    text = path.read_text()
    assert old in text
    found = reasons(text.replace(old, new), classes, bindings)
    assert found["10.3"]
    assert found["11.4"]


def test_what_version_11_removed_fails_there_alone(bindings):
    path, classes = SOURCES["build_engine"]
    text = path.read_text().replace("trt.BuilderFlag.TF32", "trt.BuilderFlag.FP16")
    found = reasons(text, classes, bindings)
    assert found["10.3"] == []
    assert len(found["11.4"]) == 1
    assert "FP16" in found["11.4"][0]


def test_a_result_without_a_class_is_not_passed_over():
    text = "def build(trt):\n    inspector = trt.Builder(1).create_inspector()\n"
    assert [touch.name for touch in touches(text, {"trt": "", "inspector": None})] == ["Builder"]
    with pytest.raises(LookupError, match="line 2: what is builder"):
        touches("def build(trt):\n    builder = trt.Builder(1)\n", {"trt": ""})


PROFILE = """
import tensorrt_bindings as trt
from edge_bench.engine_profile import make_profiler

told = []
profiler = make_profiler(trt, lambda name, ms: told.append((name, ms)))
assert isinstance(profiler, trt.IProfiler)
trt.IProfiler.report_layer_time  # what is overridden has this name
profiler.report_layer_time("c1/Conv", 0.5)
assert told == [("c1/Conv", 0.5)], told
print(int(trt.ProfilingVerbosity.DETAILED))
"""


@pytest.mark.parametrize("version", ["10.3", "11.4"])
def test_a_profiler_of_our_own_is_one_of_tensorrt_in_both_versions(version, bindings):
    environment = {**bindings[version]}
    environment["PYTHONPATH"] += os.pathsep + str(Path(build_engine.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", PROFILE], capture_output=True, text=True, check=False,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


RUN = """
import sys
import tensorrt_bindings as trt
from export.build_engine import BuildError, make_logger, strongly_typed_flag

errors = []
logger = make_logger(trt, errors)
assert isinstance(logger, trt.ILogger)
for severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INFO):
    logger.log(severity, f"{severity.name} of the parser")
assert errors == ["ERROR of the parser"], errors
print(strongly_typed_flag(trt))
"""


@pytest.mark.parametrize(("version", "flags"), [("10.3", 1 << 1), ("11.4", 1 << 0)])
def test_what_needs_no_library_below_runs_in_both_versions(version, flags, bindings):
    environment = {**bindings[version]}
    environment["PYTHONPATH"] += os.pathsep + str(Path(build_engine.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", RUN], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == flags
