from __future__ import annotations

from pathlib import Path

import pytest

from export.errors import ExportError, MissingDenseError
from export.sources import checkpoint_of, dense_checkpoint_of


def test_a_file_is_its_own_checkpoint_and_a_run_stands_for_its_compressed_one(tmp_path: Path):
    assert checkpoint_of(tmp_path / "ckpt.pt") == tmp_path / "ckpt.pt"
    with pytest.raises(ExportError, match=r"no compressed\.pt in it"):
        checkpoint_of(tmp_path)
    (tmp_path / "compressed.pt").touch()
    assert checkpoint_of(tmp_path) == tmp_path / "compressed.pt"


@pytest.mark.parametrize("where", ["run", "."])
def test_a_relative_path_is_looked_for_in_and_beside_the_run(tmp_path: Path, where: str):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"checkpoint": "ckpt.pt"}')
    with pytest.raises(MissingDenseError, match=r"^ckpt\.pt: the checkpoint that .* is not there"):
        dense_checkpoint_of(run)
    (tmp_path / where / "ckpt.pt").touch()
    assert dense_checkpoint_of(run).samefile(tmp_path / where / "ckpt.pt")
