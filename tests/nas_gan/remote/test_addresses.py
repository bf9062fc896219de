import importlib.util
from pathlib import Path

import pytest

from nas_gan.errors import RemoteError
from nas_gan.remote.addresses import address_of, is_remote, open_place


@pytest.mark.parametrize(
    ("written", "remote"),
    [
        ("s3://bucket/run", True),
        ("gs://bucket/run", True),
        ("memory://run", True),
        ("file:///tmp/run", True),
        ("runs/first", False),
        ("/tmp/s3://run", False),
        ("zoo:fashion_mnist", False),
        ("C:/run", False),
        ("target-fps-60@1", False),
    ],
)
def test_what_has_a_protocol_is_an_address_and_survives_as_a_path(written, remote):
    assert is_remote(Path(written)) is remote
    assert address_of(Path(written)) == (written if remote else str(Path(written)))


def test_a_folder_here_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:").mkdir()
    assert not is_remote(Path("s3://bucket/run"))


def test_a_protocol_that_nobody_knows_is_one_line():
    with pytest.raises(RemoteError, match=r"s4://bucket/x: the protocol s4 is not known"):
        open_place(Path("s4://bucket/x"))


@pytest.mark.parametrize(("protocol", "driver"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_without_its_driver_an_address_is_one_line_that_installs_it(protocol, driver):
    if importlib.util.find_spec(driver) is not None:
        pytest.skip(f"{driver} is installed")
    with pytest.raises(RemoteError, match=f"pip install {driver}$"):
        open_place(Path(f"{protocol}://bucket/x"))


@pytest.mark.parametrize("written", ["memory://bucket/a/b", "file:///tmp/a/b"])
def test_a_place_has_a_file_system_that_finds_it(written):
    place = open_place(Path(written))
    assert place.address == written
    assert place.path == written.partition("//")[2].join(("/", "")) or place.path == "/tmp/a/b"
