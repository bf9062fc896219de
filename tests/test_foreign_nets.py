import pytest
import torch
from foreign_nets import NETS
from torch import nn

from ard.assembly.assembler import Assembler
from ard.assembly.surgery import describe_structure
from ard.layers import profile_layers
from ard.plan import RankPlan
from nas_gan.networks.normal_form import normal_form_, normalize_
from nas_gan.networks.structure import apply_structure


class OneTensor(nn.Module):
    """A foreign network as a function of one tensor."""

    def __init__(self, name):
        super().__init__()
        self.net, self.name = NETS[name].build(), name

    def forward(self, z):
        if self.name == "stylegan2":
            return self.net([z], **NETS["stylegan2"].options)[0]
        if self.name == "cgan":
            return self.net(z, torch.arange(len(z)) % 10)
        return self.net(z)


def inputs(name, n, seed):
    [first, *_] = NETS[name].inputs(n, seed)
    return first[0] if isinstance(first, list) else first


@pytest.mark.parametrize("name", NETS)
def test_a_foreign_net_is_the_same_every_time_and_its_images_follow_its_inputs(name):
    net = NETS[name]
    network = net.build()
    images = net.images(network, n=3)
    assert images.shape == (3, *net.image_shape)
    assert torch.equal(images, net.images(net.build(), n=3))
    assert images.std() > 0.1
    assert (images[0] - images[1]).abs().mean() > 0.03
    assert not any(hasattr(network, ours) for ours in ("latent_dim", "n_classes", "image_shape"))


@pytest.mark.parametrize("name", NETS)
def test_a_foreign_net_is_factorized_and_rebuilt_from_data(name):
    dense = OneTensor(name).requires_grad_(False)
    form, remarks = normalize_(dense, [inputs(name, 2, 0)])
    assert remarks == ()
    layers = profile_layers(dense, inputs(name, 2, 0)).layers
    half = {
        layer.name: grid[0]
        for layer in layers
        if (grid := [c for m in layer.methods() for c in layer.rank_grid(m, (0.5,))])
    }
    plan, z = RankPlan(half), inputs(name, 4, 1)
    small = Assembler.measure(dense, inputs(name, 32, 2), layers, fit="moments")(plan)
    images = small(z)
    assert sum(p.numel() for p in small.parameters()) < 0.7 * sum(
        p.numel() for p in dense.parameters()
    )

    bare = OneTensor(name)
    normal_form_(bare, form)
    rebuilt = apply_structure(bare, describe_structure(small, plan)).eval()
    rebuilt.load_state_dict(small.state_dict())
    assert torch.equal(rebuilt(z), images)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["stylegan2", "lucid"])
def test_rewritten_modules_are_exported_for_any_batch(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net = OneTensor(name).requires_grad_(False)
    normalize_(net, [inputs(name, 2, 0)])
    path = tmp_path / "net.onnx"
    shapes = ({0: torch.export.Dim("batch")},)
    example = (inputs(name, 2, 0),)
    torch.onnx.export(net, example, path, dynamic_shapes=shapes, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    z = inputs(name, 5, 1)
    [images] = session.run(None, {session.get_inputs()[0].name: z.numpy()})
    torch.testing.assert_close(torch.from_numpy(images), net(z), rtol=1e-3, atol=1e-4)
