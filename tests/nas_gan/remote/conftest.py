from pathlib import Path

import pytest

from nas_gan.remote.addresses import open_place


@pytest.fixture(params=["memory", "file"])
def remote(request, tmp_path):
    """An empty remote folder, on each of the file systems that come with fsspec."""
    name = "memory://" + tmp_path.name if request.param == "memory" else f"file://{tmp_path}/there"
    path = Path(name)
    yield path
    if request.param == "memory":
        place = open_place(path)
        if place.files.exists(place.path):
            place.files.rm(place.path, recursive=True)


@pytest.fixture
def write(remote):
    """Write a file of the remote folder, as another machine does."""
    place = open_place(remote)

    def write(name, content):
        target = f"{place.path}/{name}"
        place.files.makedirs(target.rpartition("/")[0], exist_ok=True)
        place.files.pipe_file(target, content)

    return write


@pytest.fixture
def content(remote):
    """Everything in the remote folder, by name."""
    place = open_place(remote)

    def content():
        place.files.invalidate_cache()
        found = place.files.find(place.path)
        return {p.removeprefix(place.path).lstrip("/"): place.files.cat_file(p) for p in found}

    return content
