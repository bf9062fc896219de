import os
import subprocess
import sys
import threading

import pytest
import tensorly as tl
import torch

from ard.factorization.backend import torch_backend
from ard.factorization.cp import cp
from ard.factorization.tucker import tucker2


@pytest.fixture
def backend():
    """Whatever the tests before set, for this thread and for new ones."""
    before = tl.get_backend()
    yield before
    tl.set_backend(before)


def of_a_new_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(tl.get_backend()))
    thread.start()
    thread.join()
    return found[0]


def test_within_the_block_tensorly_works_on_torch_tensors(backend):
    with torch_backend():
        assert tl.is_tensor(torch.ones(2))
        assert tl.get_backend() == "pytorch"
    assert tl.get_backend() == backend


def test_factorizing_changes_no_backend_of_this_thread_or_of_another(backend):
    tl.set_backend("numpy")
    tl.set_backend("pytorch", local_threadsafe=True)
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    tucker2(weight, (3, 2))
    cp(weight, 4)
    assert (tl.get_backend(), of_a_new_thread()) == ("pytorch", "numpy")


def test_the_backend_comes_back_after_an_error(backend):
    with pytest.raises(KeyError), torch_backend():
        raise KeyError
    assert tl.get_backend() == backend


def test_importing_the_room_sets_no_backend():
    code = "import tensorly, ard.factorization.methods; print(tensorly.get_backend())"
    environment = {**os.environ, "TENSORLY_BACKEND": "numpy"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "numpy"
