"""What a file is that holds no weights we can read, and what to do about it."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from pathlib import Path
from typing import IO

from nas_gan.errors import named

_PICKLE_BYTES = 8 << 20
_HEADS = (
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself; run git lfs pull"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"BZh", "compressed by bzip2; unpack it first"),
    (b"\xfd7zXZ\x00", "compressed by xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"\x93NUMPY", "a numpy array; save a state dict with torch.save"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it; save a PyTorch state dict"),
    (b"GGUF", "a GGUF file; save a PyTorch state dict"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
)
# What torch.load may build without running code of the file.
_HARMLESS = re.compile(
    r"torch\..*|_codecs\.encode|argparse\.Namespace|pathlib\..*|numpy\.(dtype|ndarray)"
    r"|numpy\._?core\.multiarray\.(scalar|_reconstruct)|collections\.(OrderedDict|defaultdict)"
    r"|(builtins|__builtin__)\.(set|frozenset|dict|list|tuple|int|float|bytearray|object)"
)


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a JSON header, and the header."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def is_zip(path: Path) -> bool:
    """Whether a file ends as zip archives do, whole ones and those of one volume."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def is_json(path: Path) -> bool:
    """Whether a file begins as a JSON object does."""
    with path.open("rb") as file:
        return file.read(64).lstrip().startswith(b"{")


def other_kind(path: Path) -> str | None:
    """What a file is, if it is known and not weights of PyTorch or safetensors, and what to do."""
    with path.open("rb") as file:
        head = file.read(512)
    for start, kind in _HEADS:
        if head.startswith(start):
            return kind
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "a page of HTML, so the download failed; download the file itself"
    if text.startswith(b"<"):
        return "text in XML, so the download may have failed; download the file itself"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x3a")):
        return "an ONNX model; its weights cannot be trained, save the state dict of the network"
    return _archive(path) if is_zip(path) else None


def _archive(path: Path) -> str | None:
    """What a zip archive is, or None if `torch.save` wrote it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None
    inner = {name.partition("/")[2] for name in names}
    if any(name == "constants.pkl" or name.startswith("code/") for name in inner):
        return (
            "a TorchScript archive; save its state dict: "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW)"
        )
    if "data.pkl" in inner:
        return None
    if any(name.endswith("serialized_exported_program.json") for name in names) or any(
        name.endswith("models/model.json") for name in names
    ):
        return "a program of torch.export; save the state dict of the network"
    if names and all(name.endswith(".npy") for name in names):
        return "an .npz file of numpy arrays; save a state dict with torch.save"
    return f"a zip archive of {named(names, 3) or 'nothing'}, and not of weights; unpack it first"


def why_refused(path: Path) -> str:
    """What in a file is more than plain values and tensors, and how to save only those.

    The instructions of the pickle are listed, never carried out.
    """
    classes, strings = _pickled(path)
    others = [name for name in classes if not _HARMLESS.fullmatch(name)]
    layers = [name for name in classes if name.startswith("torch.nn.modules.")]
    if {"_parameters", "_modules"} <= strings and (others or layers):
        whole = (others or layers)[0]
        return (
            f"it holds a whole pickled module ({whole}), Python objects that could run code, and "
            "is not loaded; where it can be loaded, save its state dict with "
            "torch.save(net.state_dict(), NEW)"
        )
    named = f" ({', '.join(others[:3])})" if others else ""
    return (
        f"it holds Python objects that could run code, and is not loaded{named}; where you trust "
        "it, save the weights alone: torch.save(torch.load(FILE, weights_only=False)[KEY], NEW)"
    )


def holds_classes(path: Path) -> bool:
    """Whether a pickle names classes or functions that are not known to be harmless."""
    return any(not _HARMLESS.fullmatch(name) for name in _pickled(path)[0])


def _pickled(path: Path) -> tuple[list[str], set[str]]:
    """The classes and functions that a file names, in order, and its short strings."""
    if is_zip(path):
        try:
            with zipfile.ZipFile(path) as archive:
                name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
                with archive.open(name) as file:
                    return _listed(file, 1)
        except (StopIteration, zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return [], set()
    with path.open("rb") as file:
        # Before zip files, torch wrote a magic number, a version, the system, and the content.
        return _listed(file, 4)


def _listed(file: IO[bytes], pickles: int) -> tuple[list[str], set[str]]:
    data = io.BytesIO(file.read(_PICKLE_BYTES))
    classes: dict[str, None] = {}
    strings: set[str] = set()
    memo: dict[int, str] = {}
    for _ in range(pickles):
        last: list[str] = []
        try:
            for op, argument, _position in pickletools.genops(data):
                if op.name == "GLOBAL":
                    classes[str(argument).replace(" ", ".")] = None
                elif op.name == "STACK_GLOBAL" and len(last) >= 2:
                    classes[f"{last[-2]}.{last[-1]}"] = None
                elif op.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT") and last:
                    memo[len(memo) if argument is None else int(argument)] = last[-1]
                elif op.name in ("BINGET", "LONG_BINGET") and argument in memo:
                    last = [*last[-1:], memo[argument]]
                elif isinstance(argument, str):
                    last = [*last[-1:], argument]
                    strings.add(argument[:80])
        except Exception:  # damaged, and what was found so far still says something
            break
    return [name for name in classes if re.fullmatch(r"[\w.]+", name)], strings
