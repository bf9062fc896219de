from pathlib import Path

import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from tiny import checkpoint_of, lively_generator

from export import sources
from nas_gan.checkpoint import load_checkpoint, save_checkpoint
from nas_gan.data.loading import load_dataset
from nas_gan.errors import CheckpointError, RemoteError, UnreadableError
from nas_gan.metrics.subjects import Drawing, open_subject
from nas_gan.remote import fetching, listing
from nas_gan.remote.addresses import open_place
from nas_gan.remote.fetching import fetched


def test_a_file_is_copied_once_and_again_when_it_has_changed(remote, write, tmp_path, monkeypatch):
    write("a/weights.pt", b"first")
    copy = fetched(remote / "a" / "weights.pt", tmp_path / "cache")
    assert (copy.name, copy.read_bytes()) == ("weights.pt", b"first")
    with monkeypatch.context() as patch:
        patch.setattr(fetching, "bring", None)  # nothing more may be brought
        assert fetched(remote / "a" / "weights.pt", tmp_path / "cache") == copy
    write("a/weights.pt", b"other")
    assert fetched(remote / "a" / "weights.pt", tmp_path / "cache").read_bytes() == b"other"


def test_a_folder_is_copied_whole_and_follows_what_is_removed(remote, write, tmp_path):
    for name in ("cats/1.png", "cats/2.png", "dogs/1.png"):
        write(name, name.encode())
    copy = fetched(remote, tmp_path / "cache")
    assert (copy / "dogs" / "1.png").read_bytes() == b"dogs/1.png"
    place = open_place(remote)
    place.files.rm_file(f"{place.path}/cats/2.png")
    write("dogs/2.png", b"new")
    assert fetched(remote, tmp_path / "cache") == copy
    names = {p.relative_to(copy).as_posix() for p in copy.rglob("*.png")}
    assert names == {"cats/1.png", "dogs/1.png", "dogs/2.png"}


def test_a_copy_that_was_cut_short_is_made_again(remote, write, tmp_path, monkeypatch):
    write("a", b"1")
    write("b", b"2")
    whole = listing.bring

    def bring(place, file, target):
        if target.name == "b":
            raise KeyboardInterrupt
        whole(place, file, target)

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "bring", bring)
        with pytest.raises(KeyboardInterrupt):
            fetched(remote, tmp_path / "cache")
    copy = fetched(remote, tmp_path / "cache")
    assert ((copy / "a").read_bytes(), (copy / "b").read_bytes()) == (b"1", b"2")


def test_what_is_not_there_is_one_line(remote, tmp_path):
    with pytest.raises(RemoteError, match="no such file or folder, or an empty one"):
        fetched(remote / "none", tmp_path / "cache")


def test_more_than_is_ever_read_is_refused_unread(remote, write, tmp_path, monkeypatch):
    write("large", b"12345")
    monkeypatch.setattr(listing, "MAX_FILE_BYTES", 4)
    with pytest.raises(UnreadableError, match="large has 5 bytes; at most 4 are read"):
        fetched(remote, tmp_path / "cache")
    monkeypatch.setattr(listing, "MAX_FILE_BYTES", 5)
    monkeypatch.setattr(listing, "MAX_FILES", 1)
    write("more", b"1")
    with pytest.raises(UnreadableError, match="over 1 files"):
        fetched(remote, tmp_path / "cache")


def test_a_disk_without_room_is_told_before_the_first_byte(remote, write, tmp_path, monkeypatch):
    write("a", b"12345")
    monkeypatch.setattr(listing, "_SPARE_BYTES", 1 << 60)
    with pytest.raises(RemoteError, match=r"5 bytes are to be copied to .*; set XDG_CACHE_HOME"):
        fetched(remote, tmp_path / "cache")


def test_a_file_that_grows_while_it_is_copied_is_no_copy(remote, write, tmp_path):
    write("a", b"12345")
    place = open_place(remote)
    [file] = listing.list_files(place).values()
    write("a", b"1234567")
    with pytest.raises(RemoteError, match="not the 5 bytes that were listed"):
        listing.bring(place, file, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, monkeypatch):
    found = {"/bucket/run/../../evil": {"name": "x", "size": 1, "type": "file"}}
    monkeypatch.setattr(MemoryFileSystem, "find", lambda self, path, detail: found)
    with pytest.raises(UnreadableError, match="is not the name of a file beside it"):
        fetched(Path("memory://bucket/run"), tmp_path / "cache")
    assert not list(tmp_path.rglob("evil"))


def test_a_remote_checkpoint_is_that_of_the_file(remote, write, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_checkpoint(checkpoint_of(lively_generator()), tmp_path / "tiny.pt")
    write("tiny.pt", (tmp_path / "tiny.pt").read_bytes())
    here, there = load_checkpoint(tmp_path / "tiny.pt"), load_checkpoint(remote / "tiny.pt")
    assert here.architecture == there.architecture
    for name, tensor in here.generator.items():
        assert torch.equal(tensor, there.generator[name])


def test_a_remote_checkpoint_runs_no_code(remote, write, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.save({"generator": Image.Image}, tmp_path / "evil.pt")  # a class, which is unpickled
    write("evil.pt", (tmp_path / "evil.pt").read_bytes())
    with pytest.raises(CheckpointError):
        load_checkpoint(remote / "evil.pt")


def test_a_remote_folder_of_images_is_the_same_data_set(remote, write, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(3):
        pixels = np.full((8, 8, 3), 40 * n, np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
        write(f"{n}.png", (folder / f"{n}.png").read_bytes())
    here, there = (load_dataset("folder", size=8, root=root) for root in (folder, remote))
    assert here.digest == there.digest
    rows = torch.arange(3)
    assert torch.equal(here[rows], there[rows])


def test_a_neighbour_whose_name_begins_alike_is_another_folder(tmp_path, monkeypatch):
    """Some stores list by the beginning of a name."""
    found = {
        f"/bucket/{name}": {"name": name, "size": 1, "type": "file"}
        for name in ("run/a", "run2/b", "run/c/d")
    }
    monkeypatch.setattr(MemoryFileSystem, "find", lambda self, path, detail: found)
    assert set(listing.list_files(open_place(Path("memory://bucket/run")))) == {"a", "c/d"}


def test_a_file_in_the_place_of_a_folder_is_copied_as_one(remote, write, tmp_path):
    write("run/a", b"1")
    write("run/b", b"2")
    assert fetched(remote / "run", tmp_path / "cache").is_dir()
    place = open_place(remote)
    place.files.rm(f"{place.path}/run", recursive=True)
    write("run", b"file")
    assert fetched(remote / "run", tmp_path / "cache").read_bytes() == b"file"
    place.files.rm_file(f"{place.path}/run")
    write("run/c", b"3")
    write("run/d", b"4")
    copy = fetched(remote / "run", tmp_path / "cache")
    assert sorted(path.name for path in copy.iterdir()) == ["c", "d"]


def test_remote_images_and_a_remote_run_directory_are_read_too(
    remote, write, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    for n in range(3):
        write(f"images/{n}.png", (tmp_path / "black.png").read_bytes())
    write("run/compressed.pt", b"weights")
    write("run/config.json", b"{}")
    assert len(open_subject(remote / "images", Drawing(n=2, seed=0)).source) == 3
    assert sources.checkpoint_of(remote / "run").read_bytes() == b"weights"
