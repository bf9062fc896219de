"""What is no `.npz` file, or a damaged one, is refused by name, whoever reads it."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas_gan.errors import InvalidValueError, MissingDataError
from nas_gan.npz import open_npz


def written(write: Callable[..., None], *arrays: Any, **named: Any) -> bytes:
    buffer = io.BytesIO()
    write(buffer, *arrays, **named)
    return buffer.getvalue()


GOOD = written(np.savez_compressed, x=np.arange(1000))


def overwritten(content: bytes, start: int, length: int) -> bytes:
    return content[:start] + b"\xff" * length + content[start + length :]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        GOOD[: len(GOOD) // 2],
        overwritten(GOOD, 60, 400),
        written(np.save, np.zeros(3)),
        written(np.savez, x=np.array([{}])),
    ],
    ids=["empty", "text", "cut short", "damaged inside", "a single array", "pickled objects"],
)
def test_a_file_that_holds_no_arrays_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.npz"
    path.write_bytes(content)
    with (
        pytest.raises(InvalidValueError, match=r"not an \.npz file of numbers") as refused,
        open_npz(path, "numbers") as file,
    ):
        _ = file["x"]
    assert str(path) in str(refused.value)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError), open_npz(tmp_path, "numbers"):
        pass
    with pytest.raises(MissingDataError, match="of numbers"), open_npz(tmp_path / "a", "numbers"):
        pass


def test_what_the_block_itself_refuses_keeps_its_message(tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    path.write_bytes(GOOD)
    with open_npz(path, "numbers") as file:
        assert np.array_equal(file["x"], np.arange(1000))
    with pytest.raises(InvalidValueError, match=r"^mine$"), open_npz(path, "numbers"):
        raise InvalidValueError("mine")
