import pytest
import torch
from torch.nn import functional as F

from nas_gan.errors import InvalidValueError
from nas_gan.networks.conditioning import ConditionalBatchNorm2d, Projection
from nas_gan.networks.models import build_model

N_CLASSES = 3
GENERATOR = {"kind": "mmd-nas", "gf_dim": 4, "bottom_width": 2, "latent_dim": 6}
ROWS = ((0, 1, 1, 0, 1, 0, 1), *[(3, 3, 3, 3, 3, 0, 0)] * 3)
SEARCHED = {"kind": "searched", "df_dim": 4, "genotype": {"rows": ROWS}}


def onehot(*labels):
    return F.one_hot(torch.tensor(labels), N_CLASSES).float()


def built(description, role="generator"):
    return build_model(description, role, rng=torch.Generator().manual_seed(0))


def test_a_new_conditional_norm_is_the_plain_one_for_every_class():
    norm, x = ConditionalBatchNorm2d(4, N_CLASSES), torch.randn(6, 4, 5, 5)
    plain = F.batch_norm(x, None, None, training=True)
    torch.testing.assert_close(norm(x, onehot(0, 1, 2, 2, 1, 0)), plain)


def test_each_image_has_the_gain_and_the_bias_of_its_class():
    norm = ConditionalBatchNorm2d(2, N_CLASSES).eval()
    with torch.no_grad():
        norm.gain.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
        norm.bias.copy_(torch.tensor([[0.0, 10.0], [20.0, 30.0], [40.0, 50.0]]))
    variance = torch.full((2,), 4.0 - norm.norm.eps)
    norm.norm.load_state_dict(
        {
            "running_mean": torch.ones(2),
            "running_var": variance,
            "num_batches_tracked": torch.tensor(1),
        }
    )
    x = torch.full((2, 2, 1, 1), 3.0)  # one standard deviation above the mean
    expected = torch.tensor([[45.0, 56.0], [1.0, 12.0]])[:, :, None, None]
    torch.testing.assert_close(norm(x, onehot(2, 0)), expected)


def test_a_projection_with_one_output_is_the_inner_product_of_miyato_and_koyama():
    projection, features = Projection(5, 1, N_CLASSES), torch.randn(4, 5)
    labels = torch.tensor([2, 0, 1, 2])
    embedded = projection.embedding.weight.T[labels]  # (n, c)
    expected = (embedded * features).sum(dim=1, keepdim=True)
    torch.testing.assert_close(projection(features, onehot(*labels.tolist())), expected)


def test_a_projection_with_several_outputs_is_a_linear_map_for_each_class():
    projection, features = Projection(5, 2, N_CLASSES), torch.randn(1, 5)
    maps = projection.embedding.weight.T.reshape(N_CLASSES, 2, 5)
    for label in range(N_CLASSES):
        torch.testing.assert_close(projection(features, onehot(label)), features @ maps[label].T)


@pytest.mark.parametrize("parts", [2, 3])
def test_a_label_reaches_the_image_through_every_norm(parts):
    net = built({**GENERATOR, "n_classes": N_CLASSES, "latent_parts": parts}).eval()
    norms = [m for m in net.modules() if isinstance(m, ConditionalBatchNorm2d)]
    assert len(norms) == 4  # before each of three cells, and before the image
    noise = torch.randn(1, 6).expand(2, -1)
    latents = torch.cat([noise, onehot(0, 1)], dim=1)
    first, second = net(latents)
    assert torch.equal(first, second)  # unit gain and no bias
    for norm in norms:
        with torch.no_grad():
            norm.gain[1] += 1.0
            first, second = net(latents)
            norm.gain[1] -= 1.0
        assert (first - second).abs().max() > 1e-4


def test_classes_cost_two_tables_a_norm_and_one_projection():
    def size(description, role="generator"):
        return sum(p.numel() for p in built(description, role).parameters())

    n, channels = N_CLASSES, 4
    # Four norms with a gain and a bias for each class, in place of one with one of each.
    tables = 4 * 2 * n * channels - 2 * channels
    assert size({**GENERATOR, "n_classes": n}) - size(GENERATOR) == tables
    judge = {"kind": "mmd-nas", "df_dim": 8, "n_outputs": 2}
    found = size({**judge, "n_classes": n}, "discriminator") - size(judge, "discriminator")
    assert found == n * 2 * 8


@pytest.mark.parametrize("judge", [{"kind": "mmd-nas", "df_dim": 4}, SEARCHED])
def test_scores_of_a_conditional_discriminator_depend_on_the_label(judge):
    net = built({**judge, "n_classes": N_CLASSES}, "discriminator").eval()
    images = torch.randn(1, 3, 32, 32).expand(N_CLASSES, -1, -1, -1)
    scores = net(images, onehot(0, 1, 2))
    assert scores.shape == (N_CLASSES, 16)
    assert (scores[1:] - scores[0]).abs().min() > 0
    # Spectral norm is on the table of classes too.
    norm = torch.linalg.matrix_norm(net.projection.embedding.weight.detach(), 2)
    assert norm.item() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("judge", [{"kind": "mmd-nas", "df_dim": 4}, SEARCHED])
def test_labels_are_neither_forgotten_nor_given_in_vain(judge):
    images = torch.zeros(2, 3, 32, 32)
    with pytest.raises(InvalidValueError, match="has 3 classes; call it with images and one-hot"):
        built({**judge, "n_classes": N_CLASSES}, "discriminator")(images)
    with pytest.raises(InvalidValueError, match="has 0 classes; call it with images alone"):
        built(judge, "discriminator")(images, onehot(0, 1))


@pytest.mark.parametrize("n_classes", [1, -1])
def test_one_class_is_none(n_classes):
    for role in ("generator", "discriminator"):
        with pytest.raises(InvalidValueError, match=f"at least 2 classes.*got {n_classes}"):
            built({"kind": "mmd-nas", "n_classes": n_classes}, role)


def test_latents_of_another_width_are_refused():
    net = built({**GENERATOR, "n_classes": N_CLASSES})
    with pytest.raises(RuntimeError):
        net(torch.zeros(1, 6))
