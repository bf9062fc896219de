import pytest
import torch

from nas_gan.architecture_search.derivation import derive_discriminator, derive_generator
from nas_gan.errors import InvalidValueError
from nas_gan.networks.genotype import MMD_NAS

NONE = 0


def one_hot(indices, n):
    """Architecture parameters that are sure of these operations."""
    return 10 * torch.nn.functional.one_hot(torch.tensor(indices), n).float()


@pytest.fixture
def generator_alphas():
    rows = torch.tensor(MMD_NAS.rows)
    return one_hot(rows[:, 2:].tolist(), 7), one_hot(rows[:, :2].tolist(), 4)


@pytest.fixture
def discriminator_alphas():
    return one_hot([[3, 3, 3, 3, 3]] * 4, 7), one_hot([[2, 0]] * 4, 6)


def test_sure_parameters_give_back_their_genotype(generator_alphas):
    assert derive_generator(*generator_alphas) == MMD_NAS


def test_an_upsampling_edge_can_be_any_of_four_operations(generator_alphas):
    normal, _ = generator_alphas
    found = derive_generator(normal, one_hot([[0, 1], [2, 3], [3, 3]], 4))
    assert [row[:2] for row in found.rows] == [(0, 1), (2, 3), (3, 3)]


def test_three_columns_choose_among_the_first_three_operations(generator_alphas):
    normal, up = generator_alphas
    assert derive_generator(normal, up[..., :3]).table == "mmd-nas"
    other = derive_generator(normal, up[..., :3], "adversarial-nas")
    assert other.table == "adversarial-nas"


def test_node_2_gets_the_next_operation_of_the_edge_least_surely_none(generator_alphas):
    normal, up = generator_alphas
    normal[0, 0] = torch.tensor([2.0, 0, 0, 0, 0, 0, 0])
    normal[0, 1] = torch.tensor([1.0, 0, 0, 0, 0, 0.5, 0])  # less sure
    assert derive_generator(normal, up).rows[0][2:4] == (NONE, 5)


def test_node_3_gets_an_input_too(generator_alphas):
    normal, up = generator_alphas
    for edge, sureness in ((2, 3.0), (3, 1.0), (4, 2.0)):
        normal[1, edge] = torch.tensor([sureness, 0, 0, 0.2, 0, 0, 0])
    assert derive_generator(normal, up).rows[1][4:] == (NONE, 3, NONE)


def test_what_counts_is_the_probability_on_its_own_edge(generator_alphas):
    # A larger alpha, but less sure: 3 of (3, 2.9) against 1 of (1, -9).
    normal, up = generator_alphas
    normal[0, 0] = torch.tensor([3.0, 2.9, 2.9, 2.9, 2.9, 2.9, 2.95])
    normal[0, 1] = torch.tensor([1.0, -9, -9, -9, -9, -9, -9])
    assert derive_generator(normal, up).rows[0][2:4] == (6, NONE)


def test_one_edge_is_enough(generator_alphas):
    normal, up = generator_alphas
    normal[0, 0] = one_hot([NONE], 7)[0]
    assert derive_generator(normal, up).rows[0][2:4] == (NONE, MMD_NAS.rows[0][3])


def test_the_first_edges_of_a_discriminator_choose_among_five(discriminator_alphas):
    normal, down = discriminator_alphas
    normal[0, :3] = torch.tensor([0.0, 0, 1, 0, 0, 9, 9])
    found = derive_discriminator(normal, down)
    assert found.rows[0] == (2, 2, 2, 3, 3, 2, 0)
    assert found.operation(1, "c0") == "conv_5x5"


@pytest.mark.parametrize(("edges", "kept"), [((1, 3), 3), ((2, 4), 2)], ids=["node1", "node2"])
def test_each_node_of_a_discriminator_block_gets_an_input(discriminator_alphas, edges, kept):
    normal, down = discriminator_alphas
    for edge in edges:
        sureness = 1.0 if edge == kept else 2.0
        normal[2, edge] = torch.tensor([sureness, 0, 0, 0, 0.5, 0, 0])
    row = derive_discriminator(normal, down).rows[2]
    assert row[kept] == 4
    assert [row[edge] for edge in edges if edge != kept] == [NONE]


def test_node_0_gets_an_input_where_something_reads_it(discriminator_alphas):
    normal, down = discriminator_alphas
    normal[1, 0] = torch.tensor([5.0, 0, 0, 0, 0, 0, 1])
    assert derive_discriminator(normal, down).rows[1][0] == 6
    normal[1, 3] = normal[1, 4] = one_hot([NONE], 7)[0]
    assert derive_discriminator(normal, down).rows[1][0] == NONE


def test_an_edge_mended_for_node_1_mends_node_0_too(discriminator_alphas):
    normal, down = discriminator_alphas
    for edge in range(5):
        normal[3, edge] = torch.tensor([2.0, 0, 0.1, 0, 0, 0, 0])
    normal[3, 3, NONE] = 1.0  # the least sure of c1 and c3
    assert derive_discriminator(normal, down).rows[3][:5] == (2, NONE, 2, 2, NONE)


def test_a_softmax_over_edges_would_choose_otherwise(discriminator_alphas):
    # Every edge prefers its operation 3; over the edges, operation 6 of edge 0 looks larger.
    normal, down = discriminator_alphas
    normal[1] = 0
    normal[1, :, 3] = 1.0
    normal[1, 0, 6] = 0.9
    assert normal[1].softmax(dim=0).argmax(-1)[0] == 6
    assert derive_discriminator(normal, down).rows[1][:5] == (3, 3, 3, 3, 3)


def test_parameters_that_cannot_be_are_refused(generator_alphas, discriminator_alphas):
    normal, up = generator_alphas
    with pytest.raises(InvalidValueError, match=r"'normal' must have shape \(3, 5, 7\)"):
        derive_generator(normal[:2], up)
    with pytest.raises(InvalidValueError, match="'up' must have shape"):
        derive_generator(normal, torch.zeros(3, 2, 5))
    with pytest.raises(InvalidValueError, match="'normal' are not finite"):
        derive_generator(normal * torch.nan, up)
    with pytest.raises(InvalidValueError, match=r"'down' must have shape \(4, 2, 6\)"):
        derive_discriminator(discriminator_alphas[0], torch.zeros(4, 2, 5))
