import itertools
import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Annotation

from nas_gan.architecture_search.files import BestGenotype
from nas_gan.architecture_search.graphs import graph_edges
from nas_gan.architecture_search.pictures import (
    COLOURS,
    curve_figure,
    draw_genotype,
    draw_search,
    genotype_figure,
    genotypes_figure,
)
from nas_gan.networks.genotype import (
    ADVERSARIAL_NAS,
    DOWN,
    EDGES,
    MMD_NAS,
    NORMAL,
    UP,
    DiscriminatorGenotype,
    Genotype,
)

LONGEST = NORMAL.index("dil_conv_5x5")
CROWDED = Genotype(((3, 3, *[LONGEST] * 5),) * 3)
FIRST_LONGEST = LONGEST - 2  # among the operations on the image
D_CROWDED = DiscriminatorGenotype(
    ((*[FIRST_LONGEST] * 3, *[LONGEST] * 2, 5, 5), *((*[LONGEST] * 5, 5, 5),) * 3)
)
BEST = BestGenotype(ADVERSARIAL_NAS, 20, 30.0, 1.0)


def texts(axes):
    return [text for text in axes.texts if text.get_text()]


@pytest.mark.parametrize("genotype", [MMD_NAS, ADVERSARIAL_NAS, CROWDED, D_CROWDED])
def test_a_picture_has_an_arrow_and_a_name_for_each_edge(genotype):
    figure = genotype_figure(genotype)
    operations = {*NORMAL, *UP["mmd-nas"], *DOWN}
    arrows = [p for axes in figure.axes for p in axes.patches if isinstance(p, FancyArrowPatch)]
    names = [
        t.get_text() for axes in figure.axes for t in texts(axes) if t.get_text() in operations
    ]
    edges = graph_edges(genotype)
    assert len(arrows) == len(edges)
    assert sorted(names) == sorted(edge.operation for edge in edges)
    assert len(figure.axes) >= len(genotype.rows)


@pytest.mark.parametrize("genotype", [MMD_NAS, CROWDED, D_CROWDED])
def test_no_two_names_lie_on_each_other(genotype):
    figure = genotype_figure(genotype)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for axes in figure.axes:
        boxes = [text.get_window_extent(canvas.get_renderer()) for text in texts(axes)]
        assert len(boxes) > 5
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_equal_genotypes_are_equal_files(tmp_path):
    for name in ("a", "b"):
        draw_genotype(MMD_NAS, tmp_path / f"{name}.png")
    a, b = ((tmp_path / f"{name}.png").read_bytes() for name in ("a", "b"))
    assert a == b
    assert a.startswith(b"\x89PNG")


def test_a_column_of_genotypes_over_time_has_the_operations_of_that_step():
    figure = genotypes_figure({20: CROWDED, 10: MMD_NAS}, best=20)
    axes = figure.axes[0]
    table = np.asarray(axes.collections[0].get_array()).reshape(21, 2).tolist()
    names = list(COLOURS)
    for column, genotype in enumerate((MMD_NAS, CROWDED)):
        expected = [genotype.operation(cell, edge) for cell in (1, 2, 3) for edge in EDGES]
        assert [names[int(row[column])] for row in table] == expected
    [mark] = axes.texts
    assert isinstance(mark, Annotation)
    assert mark.xy[0] == 1.5  # the middle of the second column
    # What the picture shows is explained, and nothing else is.
    shown = {text.get_text() for text in figure.legends[0].get_texts()}
    found = {g.operation(c, e) for g in (MMD_NAS, CROWDED) for c in (1, 2, 3) for e in EDGES}
    assert shown == found


def points(line):
    return np.asarray(line.get_xydata()).tolist()


def test_a_curve_shows_each_measurement_with_its_error_and_the_best_one():
    rows = [
        {"step": 10, "fid": 40.0, "fid_se": 2.0, "class_score": 2.0, "class_score_std": 0.1},
        {"step": 20, "fid": 30.0, "fid_se": 1.0, "class_score": 2.5, "class_score_std": 0.1},
    ]
    fid, score = curve_figure(rows, BEST).axes
    assert points(fid.lines[0]) == [[10.0, 40.0], [20.0, 30.0]]
    [segments] = [c.get_segments() for c in fid.collections if isinstance(c, LineCollection)]
    assert [segment[:, 1].tolist() for segment in segments] == [[38.0, 42.0], [29.0, 31.0]]
    assert points(fid.lines[-1]) == [[20.0, 30.0]]
    assert (fid.get_ylabel(), score.get_ylabel()) == ("FID", "class score")
    assert points(score.lines[0]) == [[10.0, 2.0], [20.0, 2.5]]


def test_the_directory_of_a_search_is_drawn_as_far_as_there_is_something_to_draw(tmp_path):
    assert draw_search(tmp_path) == []
    (tmp_path / "genotype.json").write_text(MMD_NAS.to_json())
    assert [path.name for path in draw_search(tmp_path)] == ["genotype.png"]
    (tmp_path / "best_genotype.json").write_text(BEST.to_json())
    (tmp_path / "genotypes").mkdir()
    (tmp_path / "genotypes" / "000020.json").write_text(ADVERSARIAL_NAS.to_json())
    (tmp_path / "genotypes" / "000020_discriminator.json").write_text(D_CROWDED.to_json())
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 20, "fid": 30.0}) + "\n")
    drawn = draw_search(tmp_path)
    assert {path.name for path in drawn} == {
        "genotype.png", "best_genotype.png", "genotypes.png", "curve.png",
    }  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
