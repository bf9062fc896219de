#!/usr/bin/env python3
"""Build the TensorRT engine of this bundle on the device that will run it.

An engine fits one TensorRT version and one kind of GPU, so it is built on the device itself. This
file is self-contained: it needs Python 3.10, the `tensorrt` package (part of JetPack) and the
bundle that it is in. It writes NAME.engine and engine.json into the bundle. It does nothing if they
exist and were built from this ONNX file, for this device, by this TensorRT.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import importlib
import io
import json
import os
import re
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Manifests are kilobytes.
MAX_JSON_BYTES = 64 << 20
MAX_TIMING_BYTES = 256 << 20
# What a build needs besides its workspace: the libraries, a CUDA context, copies of the weights.
BASE_MIB, COPIES_OF_WEIGHTS = 768, 4
# CUdevice_attribute of cuda.h.
COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76


class BuildError(Exception):
    """The engine cannot be built; the message is one line that says what to do."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which means what Ctrl-C means."""


def main(args: list[str] | None = None) -> int:
    """Parse, build, report; return 0 if the engine exists, or 1 after one line on stderr."""
    options = parse(args)
    try:
        return run(options)
    except BuildError as error:
        line = re.sub("[\x00-\x1f\x7f\x85\u2028\u2029]", " ", str(error))
        sys.stderr.write(f"error: {line}\n")
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stderr.write(f"error: {error.filename or ''}: {error.strerror or error}\n")
    except KeyboardInterrupt as interrupt:
        terminated = isinstance(interrupt, Terminated)
        word = "terminated" if terminated else "interrupted"
        sys.stderr.write(f"{word}: nothing was written; run the same command again\n")
        return 143 if terminated else 130
    return 1


def parse(args: list[str] | None) -> argparse.Namespace:
    """Parse the command line; exit with 2 if the batch sizes are not in order."""
    parser = make_parser()
    options = parser.parse_args(args)
    if options.batch and not options.batch[0] <= options.batch[1] <= options.batch[2]:
        parser.error("--batch: MIN <= OPT <= MAX")
    return options


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line, with its options grouped by topic."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    engine = parser.add_argument_group("engine options")
    engine.add_argument(
        "--batch",
        type=_positive,
        nargs=3,
        metavar=("MIN", "OPT", "MAX"),
        help="Smallest, usual and largest batch size of the engine. (default: the manifest's)",
    )
    engine.add_argument(
        "--workspace-mib",
        type=_positive,
        default=512,
        metavar="MIB",
        help="Limit on the scratch memory in MiB. (default: 512)",
    )
    engine.add_argument(
        "--dla",
        type=_not_negative,
        metavar="CORE",
        help="Core of the deep learning accelerator to run on, 0 or 1 on an Orin; what it cannot "
        "run stays on the GPU. It takes float16 or int8 and one batch size. (default: the GPU)",
    )
    engine.add_argument(
        "--no-tf32",
        action="store_true",
        help="Multiply float32 at full precision instead of TF32; this is slower.",
    )
    building = parser.add_argument_group("build options")
    building.add_argument(
        "--dry-run",
        action="store_true",
        help="Check the bundle, print what would be done, and stop.",
    )
    building.add_argument(
        "--force", action="store_true", help="Build even if the existing engine fits."
    )
    building.add_argument(
        "--bundle",
        type=Path,
        default=Path(__file__).absolute().parent,
        metavar="DIR",
        help="Folder of the bundle. (default: the folder of this file)",
    )
    building.add_argument(
        "--module",
        choices=("tensorrt", "tensorrt_rtx"),
        default="tensorrt",
        help="TensorRT package to build with. (default: tensorrt)",
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Do what `main` does, with errors as exceptions."""
    bundle: Path = options.bundle
    manifest = read_manifest(bundle)
    onnx = read_onnx(bundle, manifest)
    batch = tuple(options.batch or (manifest["batch"][key] for key in ("min", "opt", "max")))
    engine_path = inside(bundle, f"{manifest['name']}.engine")
    inside(bundle, record_path(engine_path).name)
    timing_cache = inside(bundle, f"{manifest['name']}.timing")
    if options.dla is not None:
        check_dla(manifest, batch)
    if options.dry_run:
        sys.stdout.write(
            f"would build {engine_path.name} from {manifest['onnx']} ({manifest['precision']}, "
            f"batch {batch[0]} to {batch[2]}, tuned for {batch[1]}, workspace "
            f"{options.workspace_mib} MiB, {_mib(available_bytes())} MiB of memory available)\n"
            f"the same by trtexec: {trtexec_line(manifest, batch, options.workspace_mib)}\n"
        )
        return 0
    trt = import_tensorrt(options.module)
    wanted = {
        "onnx_sha256": manifest["files"][manifest["onnx"]]["sha256"],
        "tensorrt": {"module": options.module, "version": trt.__version__},
        **describe_device(),
        "batch": list(batch),
        "tf32": not options.no_tf32,
        "dla": options.dla,
    }
    if not options.force and is_current(engine_path, wanted):
        sys.stdout.write(f"{engine_path} fits this device and this bundle; nothing to do\n")
        return 0
    check_memory(len(onnx), options.workspace_mib, available_bytes())
    sys.stderr.write(
        f"building with {options.module} {trt.__version__}; this takes minutes on a Jetson\n"
    )
    start = time.perf_counter()
    engine = build(
        trt,
        onnx,
        manifest,
        batch,
        workspace_mib=options.workspace_mib,
        tf32=not options.no_tf32,
        dla=options.dla,
        timing_cache=timing_cache,
    )
    seconds = time.perf_counter() - start
    record = {
        "format": 1,
        "engine": engine_path.name,
        "sha256": hashlib.sha256(engine).hexdigest(),
        "bytes": len(engine),
        **wanted,
        "workspace_mib": options.workspace_mib,
        "seconds": round(seconds, 3),
    }
    # The record is written last and holds the hash of the engine, so that a crash between the two
    # writes is noticed.
    write_atomically(engine_path, engine)
    write_atomically(record_path(engine_path), (json.dumps(record, indent=2) + "\n").encode())
    sys.stdout.write(f"{engine_path}: {len(engine):,} bytes in {seconds:.1f} s\n")
    return 0


def check_dla(manifest: dict[str, Any], batch: tuple[int, ...]) -> None:
    """Refuse what the deep learning accelerator does not take, before TensorRT is loaded."""
    if manifest["precision"] == "fp32":
        raise BuildError("--dla: the accelerator has no float32; export with --precision fp16")
    if len(set(batch)) > 1:
        raise BuildError(
            f"--dla: the accelerator takes one batch size; give it as --batch {batch[1]} "
            f"{batch[1]} {batch[1]}"
        )


def read_manifest(bundle: Path) -> dict[str, Any]:
    """The manifest of the bundle, which must be of format 1."""
    path = bundle / "manifest.json"
    if not path.is_file():
        raise BuildError(f"{path}: no such file; --bundle names the folder that holds it")
    manifest = read_json(path)
    if manifest.get("format") != 1:
        raise BuildError(f"{path}: not a manifest of format 1; export the bundle again")
    check_manifest(manifest, path)
    return manifest


def read_json(path: Path) -> dict[str, Any]:
    """The table in a JSON file, which is read no further than it can be one of this program's."""
    if path.exists() and not path.is_file():
        raise BuildError(f"{path}: not a file; copy the bundle again")
    if path.is_file() and path.stat().st_size > MAX_JSON_BYTES:
        raise BuildError(f"{path}: larger than {MAX_JSON_BYTES:,} bytes; copy the bundle again")
    try:
        value = json.loads(path.read_bytes().decode())
    except RecursionError as error:
        raise BuildError(f"{path}: nested too deep; copy the bundle again") from error
    except ValueError as error:
        raise BuildError(f"{path}: not JSON ({error}); copy the bundle again") from error
    if not isinstance(value, dict):
        raise BuildError(f"{path}: not a table of values; copy the bundle again")
    return value


def check_manifest(manifest: dict[str, Any], path: Path) -> None:
    """Refuse a manifest with a value that cannot be used, naming its key."""

    def good(value: bool, key: str) -> None:
        if not value:
            raise BuildError(f"{path}: {key} is missing or unusable; export the bundle again")

    for key in ("name", "onnx"):
        good(is_plain_name(manifest.get(key)), key)
    files = manifest.get("files")
    entry = files.get(manifest["onnx"]) if isinstance(files, dict) else None
    good(isinstance(entry, dict) and isinstance(entry.get("sha256"), str), "files")
    good(isinstance(manifest.get("precision"), str), "precision")
    batch = manifest.get("batch")
    sizes = [batch.get(k) for k in ("min", "opt", "max")] if isinstance(batch, dict) else []
    counts = [n for n in sizes if type(n) is int and n > 0]
    good(len(counts) == 3 and counts == sorted(counts), "batch")
    for key in ("inputs", "outputs"):
        listed = manifest.get(key)
        good(isinstance(listed, list) and bool(listed) and all(map(_is_tensor, listed)), key)


def _is_tensor(spec: Any) -> bool:
    if not isinstance(spec, dict) or not is_plain_name(spec.get("name")):
        return False
    shape = spec.get("shape")
    return (
        isinstance(shape, list)
        and all(
            (type(n) is int and 0 < n < 2**31) or (isinstance(n, str) and n.isidentifier())
            for n in shape[:1]
        )
        and all(type(n) is int and 0 < n < 2**31 for n in shape[1:])
    )


def is_plain_name(name: Any) -> bool:
    """Whether it is the name of a file in a folder, and leads nowhere else."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and name.isprintable()
        and not set(name) & set('/\\:*?"<>|')
        and len(name) <= 200
    )


def inside(bundle: Path, name: str) -> Path:
    """The path of a file of the bundle, which is opened or written nowhere else."""
    path = bundle / name
    if not is_plain_name(name) or _leads_out(path, bundle):
        raise BuildError(f"{path}: outside of the bundle; copy the bundle again")
    return path


def _leads_out(path: Path, bundle: Path) -> bool:
    try:
        return path.is_symlink() and bundle.resolve() not in path.resolve().parents
    except (OSError, RuntimeError):  # a link to itself
        return True


def read_onnx(bundle: Path, manifest: dict[str, Any]) -> bytes:
    """The ONNX file, whose hash must be the one in the manifest."""
    path = inside(bundle, manifest["onnx"])
    if path.exists() and not path.is_file():
        raise BuildError(f"{path}: not a file; copy the bundle again")
    entry = manifest["files"][manifest["onnx"]]
    if path.exists() and entry.get("bytes") not in (None, path.stat().st_size):
        raise BuildError(f"{path}: not as large as the manifest says; copy the bundle again")
    data = path.read_bytes()
    found, stated = hashlib.sha256(data).hexdigest(), manifest["files"][manifest["onnx"]]["sha256"]
    if found != stated:
        raise BuildError(
            f"{path}: sha256 {found[:12]}, the manifest says {stated[:12]}; copy the bundle again"
        )
    return data


def import_tensorrt(module: str) -> Any:
    """The TensorRT package named `module`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        # What native code calls an error while it is imported may be a signal.
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise error.__cause__ from error
        raise BuildError(
            f"cannot import {module} ({error}); on a Jetson it is part of JetPack: "
            "sudo apt install python3-libnvinfer, and make a virtual environment with "
            "--system-site-packages"
        ) from error


def trtexec_line(manifest: dict[str, Any], batch: tuple[int, ...], workspace_mib: int) -> str:
    """The command that builds the same engine with NVIDIA's own tool.

    The graph states its types, so there is no precision flag: --fp16 and --stronglyTyped exclude
    each other.
    """
    shapes = [
        f"--{which}Shapes="
        + ",".join(
            f"{tensor['name']}:{'x'.join(str(size) for size in (n, *tensor['shape'][1:]))}"
            for tensor in manifest["inputs"]
        )
        for which, n in zip(("min", "opt", "max"), batch, strict=True)
    ]
    files = [f"--onnx={manifest['onnx']}", f"--saveEngine={manifest['name']}.engine"]
    words = [*files, "--stronglyTyped", *shapes, f"--memPoolSize=workspace:{workspace_mib}"]
    return shlex.join(["trtexec", *words])


def build(
    trt: Any,
    onnx: bytes,
    manifest: dict[str, Any],
    batch: tuple[int, ...],
    *,
    workspace_mib: int,
    tf32: bool = True,
    dla: int | None = None,
    timing_cache: Path | None = None,
) -> bytes:
    """A serialized engine; `trt` is the `tensorrt` module, or one with the same interface.

    With `dla`, layers run on that core of the deep learning accelerator, and on the GPU if it
    cannot run them. What TensorRT measures of each layer is kept in `timing_cache`.
    """
    errors: list[str] = []
    logger = make_logger(trt, errors)
    builder = trt.Builder(logger)
    network = builder.create_network(strongly_typed_flag(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        errors += [parser.get_error(place).desc() for place in range(parser.num_errors)]
        raise BuildError(f"TensorRT {trt.__version__} cannot read the graph: {_first(errors)}")
    check_network(network, manifest)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    if not tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    # The engine then says which nodes of the graph its layers compute, for `edge_bench.profile`.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    for tensor in manifest["inputs"]:
        profile.set_shape(tensor["name"], *((n, *tensor["shape"][1:]) for n in batch))
    config.add_optimization_profile(profile)
    if dla is not None:
        use_dla(trt, builder, network, config, dla)
    use_timing_cache(config, timing_cache)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BuildError(f"TensorRT {trt.__version__} built no engine: {_first(errors)}")
    keep_timing_cache(config, timing_cache)
    return bytes(engine)


def use_dla(trt: Any, builder: Any, network: Any, config: Any, core: int) -> None:
    """Run on a core of the deep learning accelerator, and say which layers it cannot run."""
    cores = getattr(builder, "num_DLA_cores", 0)
    if core >= cores:
        there = f"cores 0 to {cores - 1}" if cores else "no deep learning accelerator"
        raise BuildError(f"--dla {core}: this device has {there}, or this TensorRT cannot use it")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    layers = [network.get_layer(place) for place in range(network.num_layers)]
    left = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
    for name in left:
        sys.stderr.write(f"on the GPU, since the accelerator cannot run it: {name}\n")
    sys.stderr.write(f"{len(layers) - len(left)} of {len(layers)} layers on DLA core {core}\n")


def use_timing_cache(config: Any, path: Path | None) -> None:
    """Begin with what an earlier build measured; TensorRT-RTX measures nothing."""
    if path is None or not hasattr(config, "create_timing_cache"):
        return
    known = b""
    if path.is_file() and path.stat().st_size <= MAX_TIMING_BYTES:
        known = path.read_bytes()
    # One of another version or device is damaged or does not fit, and is replaced by a new one.
    for content in (known, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return


def keep_timing_cache(config: Any, path: Path | None) -> None:
    """Write what this build measured beside the engine."""
    if path is None or not hasattr(config, "get_timing_cache"):
        return
    cache = config.get_timing_cache()
    if cache is not None:
        write_atomically(path, bytes(cache.serialize()))


def make_logger(trt: Any, errors: list[str]) -> Any:
    """A logger that appends errors to `errors` and shows warnings on stderr."""

    class Logger(trt.ILogger):  # the base class is known only at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                errors.append(message)
            elif severity == trt.ILogger.Severity.WARNING:
                sys.stderr.write(f"tensorrt: {message}\n")

    return Logger()


def strongly_typed_flag(trt: Any) -> int:
    """The creation flags of a network that takes its types from the graph.

    TensorRT 10 needs the flag, and 11 ignores it. Without it, a network is either always strongly
    typed (versions that have no FP16 builder flag) or never (before 9).
    """
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if flag is not None:
        return 1 << int(flag)
    if hasattr(trt.BuilderFlag, "FP16"):
        raise BuildError(
            f"TensorRT {trt.__version__} knows no strongly typed networks; 10.0 or later is needed "
            "(JetPack 6.1 or later)"
        )
    return 0


def check_network(network: Any, manifest: dict[str, Any]) -> None:
    """Refuse a network whose inputs and outputs differ from those in the manifest."""
    found = [network.get_input(place) for place in range(network.num_inputs)]
    found += [network.get_output(place) for place in range(network.num_outputs)]
    listed = manifest["inputs"] + manifest["outputs"]
    names = [(tensor.name, *list(tensor.shape)[1:]) for tensor in found]
    expected = [(tensor["name"], *tensor["shape"][1:]) for tensor in listed]
    if names != expected:
        raise BuildError(f"the network has {names}; the manifest lists {expected}; export again")


def available_bytes() -> int | None:
    """Memory that a new process can use without swapping; None if Linux does not say."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return None
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text(encoding="ascii"))
    return int(found[1]) * 1024 if found else None


def check_memory(onnx_bytes: int, workspace_mib: int, available: int | None) -> None:
    """Refuse a build that the kernel would kill, as happens on small boards."""
    needed = workspace_mib + BASE_MIB + (COPIES_OF_WEIGHTS * onnx_bytes >> 20)
    if available is not None and available >> 20 < needed:
        raise BuildError(
            f"{available >> 20} MiB of memory are free and the build may take {needed}; lower "
            "--workspace-mib, stop the desktop (sudo systemctl isolate multi-user) or add swap"
        )


def describe_device() -> dict[str, str | None]:
    """What an engine is tied to: device name, compute capability, L4T release of a Jetson."""
    name, capability = _cuda_device()
    model = Path("/proc/device-tree/model")
    if model.is_file():
        name = model.read_bytes().rstrip(b"\0").decode(errors="replace")
    release = Path("/etc/nv_tegra_release")
    l4t = parse_l4t(release.read_text(encoding="utf-8")) if release.is_file() else None
    return {"device": name, "compute_capability": capability, "l4t": l4t}


def parse_l4t(text: str) -> str:
    """`36.4.3` from the first line of /etc/nv_tegra_release, or that line if it is different."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else text.strip().splitlines()[0]


def _cuda_device() -> tuple[str | None, str | None]:
    """Name and compute capability of the first GPU, from its driver; None without one."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None, None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return None, None
    cuda.cuDeviceGetName(name, len(name), device)
    parts = []
    for attribute in (COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR):
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        parts.append(str(value.value))
    return name.value.decode(errors="replace"), ".".join(parts)


def record_path(engine_path: Path) -> Path:
    """The record of a build, beside the engine."""
    return engine_path.with_name("engine.json")


def is_current(engine_path: Path, wanted: dict[str, Any]) -> bool:
    """Whether the engine on disk is intact and its record has every value of `wanted`."""
    try:
        record = read_json(record_path(engine_path))
        if not engine_path.is_file():
            return False
        digest = hashlib.sha256(engine_path.read_bytes()).hexdigest()
    except (OSError, BuildError):
        return False
    expected = {**wanted, "sha256": digest}
    return expected == {key: record.get(key) for key in expected}


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` beside `path` under a temporary name, then rename."""
    remove_leftovers(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".partial")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove temporary files of `path` that no process is writing: their locks died with it."""
    ours = re.compile(rf"\.{re.escape(path.name)}-[a-z0-9_]{{8}}\.partial")
    for leftover in [beside for beside in path.parent.iterdir() if ours.fullmatch(beside.name)]:
        with contextlib.suppress(OSError):
            handle = os.open(leftover, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                leftover.unlink()
            finally:
                os.close(handle)


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more; got {value}")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more; got {value}")
    return value


def _mib(count: int | None) -> str:
    return "unknown" if count is None else str(count >> 20)


def _first(errors: list[str]) -> str:
    return " ".join(errors[0].split()) if errors else "it gave no reason"


def _terminate(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # GNU timeout sends it twice
    raise Terminated


def as_process() -> int:
    """Call `main` in a process of its own.

    Characters that stdout or stderr cannot encode are replaced. A pipe that its reader has closed
    is no error; the exit code is then 141, 128 + SIGPIPE, as of the commands of a shell.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell, as in >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:  # and not ignored
        signal.signal(signal.SIGTERM, _terminate)
    try:
        code = main()
    except SystemExit as exit_:  # argparse's way to say usage or help
        code = exit_.code if isinstance(exit_.code, int) else 2
    except BrokenPipeError:  # of one of the streams: nothing else here is a pipe
        code = 141
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            # The interpreter would try again as it ends, and show a traceback.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if isinstance(error, BrokenPipeError):
                code = code or 141
            else:
                sys.stderr.write(f"error: output: {error.strerror}\n")
                code = code or 1
    return code


if __name__ == "__main__":
    sys.exit(as_process())
