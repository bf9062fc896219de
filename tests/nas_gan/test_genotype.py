import numpy as np
import pytest

from nas_gan.errors import InvalidValueError
from nas_gan.genotype import ADVERSARIAL_NAS, EDGES, MMD_NAS, Genotype

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
