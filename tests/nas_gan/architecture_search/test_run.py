import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import nas_gan
from nas_gan.architecture_search.build import build_step, build_supernets
from nas_gan.architecture_search.config import SearchConfig
from nas_gan.architecture_search.files import read_best
from nas_gan.architecture_search.run import search
from nas_gan.data.loading import synthetic_shapes
from nas_gan.errors import CheckpointError, InvalidValueError
from nas_gan.networks.genotype import MMD_NAS, DiscriminatorGenotype, Genotype
from nas_gan.networks.searched_discriminator import (
    SearchedDiscriminatorConfig,
    build_searched_discriminator,
)
from nas_gan.training.config import TrainConfig
from nas_gan.training.describe import describe_networks
from nas_gan.training.distributed import Processes
from nas_gan.training.pace import without_pace
from nas_gan.training.preset import load_preset
from nas_gan.training.run import train

PRESETS = sorted((Path(nas_gan.__file__).parent / "presets").glob("search*.toml"))
TINY = SearchConfig(
    dataset="synthetic",
    gf_dim=2,
    df_dim=2,
    batch_size=4,
    steps=3,
    n_critic=3,
    log_every=1,
    sample_every=0,
    derive_every=2,
    save_every=2,
)


@pytest.fixture(scope="module")
def images():
    return synthetic_shapes(size=32, n=12)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, images):
    config = replace(TINY, run_dir=tmp_path_factory.mktemp("runs") / "run")
    assert search(config, images).status == "finished"
    return config


@pytest.fixture
def finished(finished_run, tmp_path):
    """A copy of a finished search, to be spoilt."""
    shutil.copytree(finished_run.run_dir, tmp_path / "run")
    return replace(finished_run, run_dir=tmp_path / "run")


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def log_of(config):
    lines = (config.run_dir / "log.jsonl").read_text().splitlines()
    return [without_pace(json.loads(line)) for line in lines]


def test_the_log_of_a_search_tells_how_fast_it_goes_and_what_is_left(finished_run):
    lines = (finished_run.run_dir / "log.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "pace/wall_s" in row]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[-1]["pace/left_s"] == 0 < rows[0]["pace/left_s"]
    assert all(row["pace/images_per_s"] > 0 for row in rows)


def test_a_resumed_search_is_the_uninterrupted_one_to_the_bit(finished_run, tmp_path, images):
    parts = replace(finished_run, run_dir=tmp_path / "parts")
    done = 0

    def interrupt(n):
        nonlocal done
        done += n
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(parts, images, on_update=interrupt)
    torch.rand(5)  # somebody else draws in between
    assert search(parts, images).step == 3
    assert log_of(parts) == log_of(finished_run)
    assert [line["step"] for line in log_of(parts)] == [1, 2, 3]
    a, b = (torch.load(c.run_dir / "state.pt", weights_only=True) for c in (parts, finished_run))
    assert equal(a, b)
    found = [(c.run_dir / "genotype.json").read_text() for c in (parts, finished_run)]
    assert found[0] == found[1]


def test_a_finished_search_leaves_what_its_help_promises(finished_run):
    names = {path.name for path in finished_run.run_dir.iterdir()}
    assert names == {"config.json", "state.pt", "log.jsonl", "tensorboard", "genotypes",
                     "genotype.json", "discriminator.json"}  # fmt: skip
    along_the_way = {path.name for path in (finished_run.run_dir / "genotypes").iterdir()}
    assert along_the_way == {"000002.json", "000002_discriminator.json",
                             "000003.json", "000003_discriminator.json"}  # fmt: skip
    last = (finished_run.run_dir / "genotypes" / "000003.json").read_text()
    assert (finished_run.run_dir / "genotype.json").read_text() == last


def measuring(*fids, error=0.1):
    """A measure that finds these FIDs one after the other; and what it was given."""
    generators, left = [], list(fids)

    def measure(generator):
        generators.append(generator)
        return {"fid": left.pop(0), "fid_se": error}

    return measure, generators


def best_of(run_dir):
    best = read_best(run_dir)
    assert best is not None
    return best.step, best.fid, best.fid_se


def test_the_genotype_of_the_best_fid_beyond_noise_is_kept(tmp_path, images):
    config = replace(TINY, steps=4, eval_every=1, arch_lr=0.5, n_critic=1, run_dir=tmp_path)
    measure, generators = measuring(9.0, 8.95, 7.0, 7.1)
    seen = []
    search(config, images, measure=measure, on_measured=lambda: seen.append(best_of(tmp_path)[0]))
    assert seen == [1, 1, 3, 3]  # the files are up to date whenever somebody is told
    assert best_of(tmp_path) == (3, 7.0, 0.1)
    kept = Genotype.from_json((tmp_path / "best_genotype.json").read_text())
    at_the_time = (tmp_path / "genotypes" / "000003.json").read_text()
    assert kept == Genotype.from_json(at_the_time) == generators[2].config.genotype
    assert kept != Genotype.from_json((tmp_path / "genotype.json").read_text())
    judge = (tmp_path / "best_discriminator.json").read_text()
    assert judge == (tmp_path / "genotypes" / "000003_discriminator.json").read_text()
    measured = {line["step"]: line["fid"] for line in log_of(config) if "fid" in line}
    assert measured == {1: 9.0, 2: 8.95, 3: 7.0, 4: 7.1}
    train_config = TrainConfig(genotype=tmp_path / "best_genotype.json")
    assert describe_networks(train_config)[0]["genotype"]["rows"] == kept.rows


def test_measuring_does_not_change_what_is_found(finished_run, tmp_path, images):
    config = replace(finished_run, eval_every=1, run_dir=tmp_path / "run")
    measure, generators = measuring(1.0, 2.0, 3.0)

    def drawing(generator):
        torch.rand(3)
        generator(torch.randn(2, generator.latent_dim))
        return measure(generator)

    search(config, images, measure=drawing)
    a, b = (torch.load(c.run_dir / "state.pt", weights_only=True) for c in (config, finished_run))
    assert equal(a, b)
    assert len(generators) == 3


def test_a_search_that_is_interrupted_while_it_measures_measures_again(tmp_path, images):
    config = replace(TINY, eval_every=1, run_dir=tmp_path)
    measure, _ = measuring(9.0)

    def impatient(generator):
        try:
            return measure(generator)
        except IndexError:
            raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt):
        search(config, images, measure=impatient)
    measure, _ = measuring(8.0, 8.5)
    search(config, images, measure=measure)
    measured = {line["step"]: line["fid"] for line in log_of(config) if "fid" in line}
    assert measured == {1: 9.0, 2: 8.0, 3: 8.5}
    assert best_of(tmp_path) == (2, 8.0, 0.1)


def test_the_best_of_an_earlier_part_stays_the_best(tmp_path, images):
    config = replace(TINY, eval_every=1, run_dir=tmp_path)
    measure, _ = measuring(5.0, 6.0)
    done = 0

    def interrupt(n):
        nonlocal done
        done += n
        if done == 3:  # the state is that after two
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(config, images, measure=measure, on_update=interrupt)
    search(config, images, measure=measuring(6.0)[0])
    assert best_of(tmp_path) == (1, 5.0, 0.1)


@pytest.mark.parametrize("content", ["{}", MMD_NAS.to_json(), '{"rows": [[0]], "fid": 1}', "x"])
def test_a_best_genotype_that_is_none_is_refused_by_name(content, tmp_path):
    (tmp_path / "best_genotype.json").write_text(content)
    with pytest.raises(InvalidValueError, match=r"best_genotype\.json"):
        read_best(tmp_path)


def test_the_found_genotype_is_that_of_the_saved_parameters(finished_run):
    state = torch.load(finished_run.run_dir / "state.pt", weights_only=True)["step_state"]
    up = state["generator"]["alphas_up"].argmax(-1)
    found = Genotype.from_json((finished_run.run_dir / "genotype.json").read_text())
    assert [list(row[:2]) for row in found.rows] == up.tolist()


def test_the_found_genotype_trains(finished_run, tmp_path, images):
    config = TrainConfig(
        genotype=finished_run.run_dir / "genotype.json", run_dir=tmp_path / "train",
        dataset="synthetic", gf_dim=4, df_dim=4, batch_size=4, steps=2, sample_every=0,
    )  # fmt: skip
    result = train(config, images)
    assert (result.step, result.status) == (2, "finished")
    assert (tmp_path / "train" / "ckpt.pt").is_file()


def test_the_found_discriminator_scores_images(finished_run, images):
    text = (finished_run.run_dir / "discriminator.json").read_text()
    config = SearchedDiscriminatorConfig(
        DiscriminatorGenotype.from_json(text), df_dim=4, n_classes=0
    )
    net = build_searched_discriminator(config, rng=torch.Generator().manual_seed(0))
    assert net(images[torch.arange(4)].float()).shape == (4, 16)


def test_a_finished_search_does_nothing_more(finished, images):
    before = (finished.run_dir / "state.pt").read_bytes()
    assert search(finished, images).step == 3
    assert (finished.run_dir / "state.pt").read_bytes() == before


@pytest.mark.parametrize(
    "changes",
    [{"amending": 0.1}, {"gf_dim": 3}, {"gumbel_logits": "probabilities"}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_search_with_other_settings_is_not_continued(changes, finished, images):
    [(name, value)] = changes.items()
    old = getattr(finished, name)
    with pytest.raises(CheckpointError, match=f"{name} = {old}, asked for {value}; use another"):
        search(replace(finished, **changes), images)


def test_a_search_on_other_data_is_not_continued(finished):
    with pytest.raises(CheckpointError, match="data_sha256"):
        search(finished, synthetic_shapes(size=32, n=12, seed=1))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_loads_and_fits_supernets(preset):
    config = replace(load_preset(preset, SearchConfig), gf_dim=2, df_dim=2)
    networks = build_supernets(config)
    build_step(config, networks, synthetic_shapes(size=32, n=config.batch_size))
    columns = 3 if config.dead_conv_transpose or config.table == "adversarial-nas" else 4
    assert networks.generator.alphas_up.shape == (3, 2, columns)


def test_the_alphas_move_by_their_own_optimizers(images):
    step = build_step(TINY, build_supernets(TINY), images)
    moved = {
        name: {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, optimizer in vars(step.optimizers).items()
    }
    assert moved["g_alphas"] == {id(alpha) for alpha in step.generator.alphas}
    assert moved["d_alphas"] == {id(alpha) for alpha in step.discriminator.alphas}
    assert moved["g_weights"] | moved["g_alphas"] == {id(p) for p in step.generator.parameters()}
    assert not moved["d_weights"] & moved["d_alphas"]
    assert step.optimizers.g_alphas.param_groups[0]["weight_decay"] == 1e-4


@pytest.mark.parametrize(
    "changes",
    [{"batch_size": 7}, {"batch_size": 2}, {"amending": -0.1}, {"steps": 0}, {"g_lr": 0.0},
     {"arch_lr": float("nan")}, {"arch_beta1": 1.0}, {"arch_weight_decay": -1.0}, {"seed": -1},
     {"temperature_end": 0.0}, {"temperature_start": 0.01}, {"upper_bound": 0.0},
     {"dead_conv_transpose": True, "table": "adversarial-nas"}, {"eval_samples": 0},
     {"eval_every": -1}, {"best_gain": -1.0}, {"eval_metrics": ("accuracy",)},
     {"eval_metrics": (), "eval_every": 1}],
)  # fmt: skip
def test_settings_that_cannot_search_are_refused(changes):
    name = next(iter(changes)).partition("_")[0]
    with pytest.raises(InvalidValueError, match=name):
        SearchConfig(**changes)


def test_half_of_a_batch_must_divide_among_the_processes(images):
    networks = build_supernets(TINY)
    with pytest.raises(InvalidValueError, match="batch_size must be a multiple of 6; got 4"):
        build_step(TINY, networks, images, Processes(0, 3))
