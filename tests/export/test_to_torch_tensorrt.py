import importlib.util

import pytest
import torch

from export.errors import ExportError, MissingPackageError
from export.manifest import BatchRange
from export.to_torch_tensorrt import build_torch_tensorrt_engine
from nas_gan.networks.models import build_model

installed = importlib.util.find_spec("torch_tensorrt") is not None


@pytest.mark.skipif(installed, reason="torch-tensorrt is installed")
def test_a_missing_package_is_named_with_the_command_that_gets_it():
    with pytest.raises(MissingPackageError, match=r'pip install "ard-gan\[torch-tensorrt\]"'):
        build_torch_tensorrt_engine(torch.nn.Identity(), batch=BatchRange(1, 2, 4))


@pytest.mark.skipif(not installed, reason="torch-tensorrt is not installed")
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(ExportError, match="GPU"):
        build_torch_tensorrt_engine(torch.nn.Identity(), batch=BatchRange(1, 2, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not installed, reason="torch-tensorrt is not installed")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_an_engine_is_built_on_the_gpu():
    network = build_model({"kind": "dcgan", "gf_dim": 8, "image_size": 8, "latent_dim": 4}).eval()
    assert len(build_torch_tensorrt_engine(network, batch=BatchRange(1, 2, 4))) > 0


@pytest.mark.gpu
@pytest.mark.skipif(not installed, reason="torch-tensorrt is not installed")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_an_engine_of_a_conditional_generator_is_built_on_the_gpu(conditional):
    assert len(build_torch_tensorrt_engine(conditional, batch=BatchRange(1, 2, 4))) > 0
