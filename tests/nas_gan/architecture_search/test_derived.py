import pytest
import torch

from nas_gan.architecture_search.derived import derived_generator
from nas_gan.architecture_search.supernet import Mixing, SuperGenerator, initialize_supernet_
from nas_gan.networks.genotype import ADVERSARIAL_NAS, MMD_NAS, NORMAL, UP
from nas_gan.networks.searched import GeneratorConfig


def supernet(table="mmd-nas", parts=3):
    config = GeneratorConfig(
        gf_dim=4, bottom_width=2, latent_dim=12, latent_parts=parts, n_classes=0
    )
    net = SuperGenerator(config, table)
    initialize_supernet_(net, "xavier_uniform", torch.Generator().manual_seed(0))
    return net.eval()


def sure_of(genotype):
    rows = torch.tensor(genotype.rows)
    one_hot = torch.nn.functional.one_hot
    ups = len(UP[genotype.table])
    return Mixing(one_hot(rows[:, 2:], len(NORMAL)).float(), one_hot(rows[:, :2], ups).float())


@pytest.mark.parametrize(("genotype", "parts"), [(MMD_NAS, 3), (MMD_NAS, 2), (ADVERSARIAL_NAS, 2)])
def test_it_computes_what_a_supernet_does_that_is_sure_of_its_genotype(genotype, parts):
    net = supernet(genotype.table, parts)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    derived = derived_generator(net, genotype, torch.randn(8, 12))
    derived.to_rgb[0].load_state_dict(net.to_rgb[0].state_dict())
    z = torch.randn(5, 12)
    torch.testing.assert_close(derived(z), net(z, sure_of(genotype)))
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())


def test_its_batch_statistics_are_those_of_its_own_features():
    latents = torch.randn(48, 12)
    derived = derived_generator(supernet(), MMD_NAS, latents)
    norm, seen = derived.to_rgb[0], []
    norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    derived(latents)
    torch.testing.assert_close(norm.running_mean, seen[0].mean(dim=(0, 2, 3)))
    torch.testing.assert_close(norm.running_var, seen[0].var(dim=(0, 2, 3)))
    assert norm.momentum == 0.1
    assert not derived.training
