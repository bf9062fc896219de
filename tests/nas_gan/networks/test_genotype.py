import numpy as np
import pytest

from nas_gan.errors import InvalidValueError
from nas_gan.networks.genotype import (
    ADVERSARIAL_NAS,
    D_EDGES,
    EDGES,
    MMD_NAS,
    DiscriminatorGenotype,
    Genotype,
)

DECODED = {
    1: "nearest bilinear conv_3x3 conv_5x5 dil_conv_5x5 conv_5x5 skip_connect",
    2: "bilinear bilinear conv_5x5 none dil_conv_3x3 dil_conv_3x3 conv_3x3",
    3: "nearest bilinear conv_5x5 dil_conv_3x3 dil_conv_5x5 conv_5x5 conv_5x5",
}


@pytest.mark.parametrize("cell", [1, 2, 3])
def test_the_published_genotype_decodes_as_its_paper_has_it(cell):
    assert [MMD_NAS.operation(cell, edge) for edge in EDGES] == DECODED[cell].split()


def test_index_2_of_an_upsampling_edge_depends_on_the_table():
    rows = ((2, 2, 1, 0, 1, 0, 0),) * 3
    assert Genotype(rows, "mmd-nas").operation(1, "up0") == "bicubic"
    assert Genotype(rows, "adversarial-nas").operation(1, "up0") == "conv_transpose"


@pytest.mark.parametrize("genotype", [MMD_NAS, ADVERSARIAL_NAS], ids=lambda g: g.table)
def test_json_and_npy_round_trips_are_exact(genotype, tmp_path):
    assert Genotype.from_json(genotype.to_json()) == genotype
    genotype.to_npy(tmp_path / "genotype.npy")
    assert np.load(tmp_path / "genotype.npy").dtype == np.uint8
    assert Genotype.from_npy(tmp_path / "genotype.npy", genotype.table) == genotype


@pytest.mark.parametrize(
    ("rows", "table", "message"),
    [
        (MMD_NAS.rows[:2], "mmd-nas", "3 x 7"),
        (((0, 1),) * 3, "mmd-nas", "3 x 7"),
        (((4, 1, 3, 4, 6, 4, 1),) * 3, "mmd-nas", r"cell1\.up0: operation 4 .* 0\.\.3"),
        (((3, 1, 3, 4, 6, 4, 1),) * 3, "adversarial-nas", r"cell1\.up0: operation 3"),
        (((0, 1, 3, 4, 6, 4, 7),) * 3, "mmd-nas", r"cell1\.c4: operation 7 .* 0\.\.6"),
        (((0, 1, 3, 4, 6, 4, -1),) * 3, "mmd-nas", "operation -1"),
        (((0, 1, 3, 4, 6, 4, 1.5),) * 3, "mmd-nas", "operation 1.5"),
        (MMD_NAS.rows, "nas", "table must be one of"),
    ],
)
def test_a_genotype_that_cannot_be_is_refused_by_edge(rows, table, message):
    with pytest.raises(InvalidValueError, match=message):
        Genotype(rows, table)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"rows": 3, "table": "mmd-nas"}', '{"rows": [["a"]], "table": "mmd-nas"}',
     '{"rows": [], "table": ["mmd-nas"]}'],
)  # fmt: skip
def test_json_that_is_no_genotype_is_refused(text):
    with pytest.raises(InvalidValueError):
        Genotype.from_json(text)


@pytest.mark.parametrize(
    "array", [np.zeros(7, int), np.zeros((3, 7)), np.full((3, 7), 9), np.array([{}], dtype=object)]
)
def test_an_array_that_is_no_genotype_is_refused(array, tmp_path):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InvalidValueError):
        Genotype.from_npy(tmp_path / "a.npy")


def test_a_file_that_is_no_array_is_refused(tmp_path):
    for content in (b"", b"not an array"):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(InvalidValueError, match=r"a\.npy: not a genotype array"):
            Genotype.from_npy(tmp_path / "a.npy")


SEARCHED = DiscriminatorGenotype(
    ((4, 0, 3, 0, 6, 0, 1), (1, 2, 3, 4, 5, 5, 2), (0, 3, 3, 0, 0, 3, 4), (6, 0, 6, 1, 1, 0, 0))
)


def test_a_discriminators_first_edges_index_a_list_of_their_own():
    names = "dil_conv_5x5 conv_1x1 dil_conv_3x3 none dil_conv_5x5 avg_pool max_pool"
    assert " ".join(SEARCHED.operation(1, edge) for edge in D_EDGES) == names
    names = "skip_connect conv_1x1 conv_3x3 conv_5x5 dil_conv_3x3 dil_conv_5x5 conv_3x3"
    assert " ".join(SEARCHED.operation(2, edge) for edge in D_EDGES) == names


def test_a_discriminators_json_and_npy_round_trips_are_exact(tmp_path):
    assert DiscriminatorGenotype.from_json(SEARCHED.to_json()) == SEARCHED
    SEARCHED.to_npy(tmp_path / "genotype.npy")
    assert np.load(tmp_path / "genotype.npy").shape == (4, 7)
    assert DiscriminatorGenotype.from_npy(tmp_path / "genotype.npy") == SEARCHED


def test_the_genotypes_of_the_two_networks_are_not_mistaken_for_each_other():
    with pytest.raises(InvalidValueError, match="table must be one of"):
        Genotype.from_json(SEARCHED.to_json())
    with pytest.raises(InvalidValueError, match="expected the genotype of a discriminator"):
        DiscriminatorGenotype.from_json(MMD_NAS.to_json())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (MMD_NAS.rows, "4 x 7"),
        (((5, 0, 0, 0, 0, 0, 0),) * 4, r"block1\.c0: operation 5 .* 0\.\.4 \(conv_1x1, "),
        (((0, 0, 0, 7, 0, 0, 0),) * 4, r"block1\.c3: operation 7 .* 0\.\.6"),
        (((0, 0, 0, 0, 0, 0, 6),) * 4, r"block1\.down1: operation 6 .* 0\.\.5"),
    ],
)
def test_a_discriminator_that_cannot_be_is_refused_by_edge(rows, message):
    with pytest.raises(InvalidValueError, match=message):
        DiscriminatorGenotype(rows)
