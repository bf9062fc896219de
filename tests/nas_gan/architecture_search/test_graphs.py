from nas_gan.architecture_search.graphs import genotype_table, graph_edges
from nas_gan.networks.genotype import EDGES, MMD_NAS, DiscriminatorGenotype

D_GENOTYPE = DiscriminatorGenotype(((3, 0, 3, 0, 0, 2, 0),) * 4)


def test_the_published_genotype_is_the_graph_of_its_paper():
    edges = graph_edges(MMD_NAS)
    assert edges[:7] == (
        (0, 1, "nearest", False),
        (0, 2, "bilinear", False),
        (1, 3, "conv_3x3", False),
        (2, 3, "conv_5x5", False),
        (1, 4, "dil_conv_5x5", False),
        (2, 4, "conv_5x5", False),
        (3, 4, "skip_connect", False),
    )
    assert len([edge for edge in edges if not edge.skip]) == 20  # cell 2 has one none
    skips = [edge[:3] for edge in edges if edge.skip]
    assert skips == [(3, 7, "bilinear"), (3, 11, "nearest"), (7, 11, "nearest")]
    assert {node for edge in edges for node in edge[:2]} == set(range(13))


def test_a_discriminators_blocks_hang_together_at_their_last_nodes():
    edges = graph_edges(D_GENOTYPE)
    assert {node for edge in edges for node in edge[:2]} == set(range(17))
    block2 = [edge[:3] for edge in edges if 4 < edge.target <= 8]
    assert block2 == [(4, 5, "conv_3x3"), (4, 7, "conv_3x3"), (6, 8, "conv_3x3"),
                      (7, 8, "avg_pool")]  # fmt: skip


def test_a_table_names_every_operation():
    header, _, *rows = genotype_table(MMD_NAS).splitlines()
    assert header.split() == list(EDGES)
    assert len(rows) == 3
    operations = [MMD_NAS.operation(2, edge) for edge in EDGES]
    assert rows[1].split() == ["cell", "2", *operations]
    assert header.index("c4") == rows[1].rindex("conv_3x3")
