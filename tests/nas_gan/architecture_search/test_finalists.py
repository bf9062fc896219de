import json
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from nas_gan.architecture_search.config import SearchConfig
from nas_gan.architecture_search.finalists import (
    FINALISTS,
    Finalist,
    draw_finalists,
    rounds_of,
    training_of,
    updates_of,
)
from nas_gan.architecture_search.run import search
from nas_gan.checkpoint import build_generator, load_checkpoint
from nas_gan.data.loading import synthetic_shapes
from nas_gan.errors import DivergedError, InvalidValueError
from nas_gan.networks.genotype import MMD_NAS, Genotype
from nas_gan.networks.searched import Generator
from nas_gan.training.config import TrainConfig
from nas_gan.training.distributed import Processes

TINY = SearchConfig(
    dataset="synthetic",
    gf_dim=2,
    df_dim=2,
    batch_size=4,
    steps=1,
    n_critic=1,
    sample_every=0,
    finalists=3,
    finalist_steps=2,
)
UNIFORM = torch.zeros(3, 5, 7), torch.zeros(3, 2, 4)


def sure_of(genotype):
    rows = torch.tensor(genotype.rows)
    one_hot = torch.nn.functional.one_hot
    return 100.0 * one_hot(rows[:, 2:], 7), 100.0 * one_hot(rows[:, :2], 4)


@pytest.fixture(scope="module")
def images():
    return synthetic_shapes(size=32, n=12)


class Measure:
    """Gives each generator the next of some FIDs, and remembers the genotypes."""

    def __init__(self, *fids):
        self.left, self.genotypes = list(fids), []

    def __call__(self, generator):
        self.genotypes.append(generator.config.genotype)
        fid = self.left.pop(0)
        if not math.isfinite(fid):
            raise DivergedError("the images of latents 0 to 3 hold a NaN")
        return {"fid": fid, "fid_se": 0.5}


def finalist_of(config):
    path = config.run_dir / "finalist.json"
    return Genotype.from_json(path.read_text()), json.loads(path.read_text())


def test_the_most_probable_architecture_comes_first_and_the_best_so_far_second():
    other = Genotype(MMD_NAS.rows[::-1])
    found = draw_finalists(*UNIFORM, "mmd-nas", 4, 0, other)
    assert found[1] == other
    assert len(set(found)) == 4
    normal, up = sure_of(MMD_NAS)
    assert draw_finalists(normal, up, "mmd-nas", 2, 0, other) == (MMD_NAS, other)


def test_parameters_that_are_sure_give_one_finalist_and_the_best_so_far_counts_once():
    normal, up = sure_of(MMD_NAS)
    assert draw_finalists(normal, up, "mmd-nas", 5, 0, MMD_NAS) == (MMD_NAS,)


def test_operations_are_drawn_by_their_probabilities():
    normal, up = UNIFORM
    up = up.clone()
    up[0, 0] = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    found = draw_finalists(normal, up, "mmd-nas", 2000, 3)
    assert len(found) == 2000  # of 4^6 x 7^15 none comes twice
    drawn = Counter(genotype.rows[0][0] for genotype in found)
    for operation, share in enumerate((0.5, 0.25, 0.125, 0.125)):
        error = (share * (1 - share) / 2000) ** 0.5
        assert drawn[operation] / 2000 == pytest.approx(share, abs=4 * error)


def test_finalists_are_the_same_by_seed_and_more_of_them_begin_alike():
    few = draw_finalists(*UNIFORM, "mmd-nas", 3, 5)
    assert draw_finalists(*UNIFORM, "mmd-nas", 6, 5)[:3] == few
    assert draw_finalists(*UNIFORM, "mmd-nas", 3, 6)[1:] != few[1:]


def test_the_finalist_with_the_lowest_fid_is_kept_with_its_training(tmp_path, images):
    config = replace(TINY, run_dir=tmp_path)
    measure = Measure(9.0, 7.0, 8.0)
    told: list[Finalist] = []
    search(config, images, measure=measure, on_finalists=told.extend)
    genotype, content = finalist_of(config)
    assert genotype == measure.genotypes[1]
    assert (content["fid"], content["fid_se"]) == (7.0, 0.5)
    assert [one.fid for one in told] == [7.0, 8.0, 9.0]
    assert measure.genotypes[0] == Genotype.from_json((tmp_path / "genotype.json").read_text())
    net = build_generator(load_checkpoint(told[0].run_dir / "ckpt.pt"))
    assert isinstance(net, Generator)
    assert net.config.genotype == genotype
    assert not (tmp_path / "best_genotype.json").exists()  # nothing was measured along the way


@pytest.mark.parametrize(
    ("n", "rounds", "updates"),
    [
        (1, [(1, 5)], 5),
        (3, [(3, 5)], 15),
        (4, [(4, 5), (2, 15)], 40),
        # of nine go on three, of twelve four, of which two go on
        (9, [(9, 5), (3, 15)], 75),
        (12, [(12, 5), (4, 15), (2, 45)], 160),
    ],
)
def test_the_best_third_goes_on_to_three_times_the_steps(n, rounds, updates):
    assert list(rounds_of(n, 5)) == rounds
    assert updates_of(n, 5) == updates


def test_the_last_round_decides_and_tells_of_each_update_once(tmp_path, images):
    config = replace(TINY, run_dir=tmp_path, finalists=4)
    measure, updates = Measure(9.0, 6.0, 8.0, 7.0, 7.5, 6.5), list[int]()
    told: list[Finalist] = []
    search(config, images, measure=measure, on_update=updates.append, on_finalists=told.extend)
    # The second and the fourth go on, and then the fourth is ahead.
    assert measure.genotypes[4:] == [measure.genotypes[1], measure.genotypes[3]]
    assert [(one.fid, one.steps) for one in told] == [(6.5, 6), (7.5, 6), (8.0, 2), (9.0, 2)]
    genotype, content = finalist_of(config)
    assert genotype == measure.genotypes[3]
    assert (content["fid"], content["steps"]) == (6.5, 6)
    assert sum(updates) == 1 + updates_of(4, 2)
    # Given again, it finds the same figures and measures nothing.
    search(config, images, measure=Measure())
    assert finalist_of(config) == (genotype, content)


def test_a_finished_search_that_is_asked_for_more_finalists_trains_the_others_only(
    tmp_path, images
):
    config = replace(TINY, run_dir=tmp_path, finalists=2)
    first = Measure(9.0, 7.0)
    search(config, images, measure=first)
    more = Measure(6.0)
    search(replace(config, finalists=3), images, measure=more)
    assert len({*first.genotypes, *more.genotypes}) == 3
    assert finalist_of(config)[0] == more.genotypes[0]
    search(replace(config, finalists=3), images, measure=Measure())
    assert finalist_of(config)[0] == more.genotypes[0]


def test_finalists_that_get_more_steps_are_trained_on_and_measured_anew(tmp_path, images):
    config = replace(TINY, run_dir=tmp_path, finalists=2)
    first = Measure(9.0, 7.0)
    search(config, images, measure=first)
    updates: list[int] = []
    more = Measure(5.0, 6.0)
    search(replace(config, finalist_steps=3), images, measure=more, on_update=updates.append)
    assert more.genotypes == first.genotypes
    assert finalist_of(config)[0] == first.genotypes[0]
    # The search was done, and of each finalist two steps were: one more.
    assert [n for n in updates if n] == [1, 2, 1, 2, 1]


def test_an_interrupted_finalist_goes_on_and_the_result_is_the_same(tmp_path, images):
    whole = replace(TINY, run_dir=tmp_path / "whole")
    search(whole, images, measure=Measure(9.0, 7.0, 8.0))
    config = replace(TINY, run_dir=tmp_path / "parts")
    done = 0

    def interrupt(n):
        nonlocal done
        done += n
        if done == 4:  # a step of the search, two of a finalist, one of the next
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(config, images, measure=Measure(9.0), on_update=interrupt)
    assert not (config.run_dir / "finalist.json").exists()
    search(config, images, measure=Measure(7.0, 8.0))
    assert finalist_of(config) == finalist_of(whole)
    for path in sorted((whole.run_dir / FINALISTS).glob("*/ckpt.pt")):
        a, b = (
            load_checkpoint(root / path.relative_to(whole.run_dir)).generator
            for root in (whole.run_dir, config.run_dir)
        )
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_finalist_that_diverges_comes_last_and_all_of_them_are_an_error(tmp_path, images):
    config = replace(TINY, run_dir=tmp_path / "one")
    told: list[Finalist] = []
    search(config, images, measure=Measure(math.nan, 7.0, 8.0), on_finalists=told.extend)
    assert [one.fid for one in told] == [7.0, 8.0, math.inf]
    with pytest.raises(DivergedError, match=r"every finalist diverged \(3 of them\)"):
        search(replace(config, run_dir=tmp_path / "all"), images, measure=Measure(*[math.nan] * 3))
    assert not (tmp_path / "all" / "finalist.json").exists()


def test_a_finalist_is_trained_as_the_search_trained_its_weights(tmp_path):
    config = replace(TINY, loss="hinge", g_lr=3e-4, d_lr=4e-4, n_critic=3, upper_bound=7.0)
    made = training_of(config, tmp_path, tmp_path / "genotype.json", 6)
    same = set(TrainConfig.__dataclass_fields__) & set(SearchConfig.__dataclass_fields__)
    # A name that both have means the same in both; these are of the training itself.
    own = {"config", "run_dir", "steps", "upper_bound", "eval_every", "eval_metrics", "best_gain"}
    for name in same - own - {"on_finish"}:
        assert getattr(made, name) == getattr(config, name), name
    assert (made.upper_bound, made.upper_bound_start, made.upper_bound_end) == ("fixed", 7.0, 7.0)
    assert (made.steps, made.eval_every) == (6, 6)


def test_finalists_need_an_fid_and_one_process(images, tmp_path):
    with pytest.raises(InvalidValueError, match="eval_metrics must hold fid"):
        replace(TINY, eval_metrics=("is",))
    with pytest.raises(InvalidValueError, match="by one process, and there are 2"):
        search(replace(TINY, run_dir=tmp_path), images, processes=Processes(0, 2, "cpu"))
    assert not list(tmp_path.iterdir())
