import json
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import nas_gan
from nas_gan.checkpoint import build_generator, load_checkpoint
from nas_gan.cli import run
from nas_gan.data import synthetic_shapes
from nas_gan.errors import CheckpointError, InvalidValueError
from nas_gan.genotype import MMD_NAS
from nas_gan.train import TrainConfig, build_networks, load_preset, main, train

PRESETS = Path(nas_gan.__file__).parent / "presets"


@pytest.fixture(scope="module")
def images():
    return synthetic_shapes(size=32, n=24)


TINY = TrainConfig(
    dataset="synthetic",
    gf_dim=4,
    df_dim=4,
    batch_size=6,
    steps=6,
    log_every=1,
    sample_every=0,
    save_every=3,
)


@pytest.fixture
def config(tmp_path):
    return replace(TINY, run_dir=tmp_path / "run")


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, images):
    config = replace(TINY, run_dir=tmp_path_factory.mktemp("runs") / "run", steps=2)
    train(config, images)
    return config


@pytest.fixture
def finished(finished_run, tmp_path):
    """A copy of a finished run of two steps, to be spoilt."""
    shutil.copytree(finished_run.run_dir, tmp_path / "run")
    return replace(finished_run, run_dir=tmp_path / "run")


def interrupt_after(n):
    """An `on_update` that is Ctrl-C in the middle of update n + 1."""
    done = 0

    def on_update(finished):
        nonlocal done
        done += finished
        if done > n:
            raise KeyboardInterrupt

    return on_update


def log_of(config):
    return [json.loads(line) for line in (config.run_dir / "log.jsonl").read_text().splitlines()]


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def state_of(config):
    return torch.load(config.run_dir / "state.pt", weights_only=True)


@pytest.mark.parametrize(("n_critic", "stop"), [(1, 3), (2, 4)])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(config, images, n_critic, stop):
    whole = replace(config, run_dir=config.run_dir / "whole", n_critic=n_critic)
    parts = replace(config, run_dir=config.run_dir / "parts", n_critic=n_critic)
    train(whole, images)
    with pytest.raises(KeyboardInterrupt):
        train(parts, images, on_update=interrupt_after(stop))
    assert state_of(parts)["step"] == 3
    torch.rand(5)  # somebody else draws in between
    assert train(parts, images).step == 6
    assert log_of(parts) == log_of(whole)
    assert [line["step"] for line in log_of(whole)] == [1, 2, 3, 4, 5, 6]
    assert equal(state_of(parts), state_of(whole))
    a, b = (load_checkpoint(c.run_dir / "ckpt.pt") for c in (whole, parts))
    assert equal(a.generator, b.generator)
    assert equal(a.discriminator, b.discriminator)


def test_validations_and_the_bound_are_resumed_too(config, images):
    config = replace(config, upper_bound="saturate", eval_every=1, upper_bound_increase=2.0)
    fids = iter([9.0, *[10.0] * 5])
    with pytest.raises(KeyboardInterrupt):
        train(config, images, on_update=interrupt_after(3), measure_fid=lambda net: next(fids))
    train(config, images, measure_fid=lambda net: 10.0)
    bound = state_of(config)["step_state"]["upper_bound"]
    assert bound == {"value": 4.0, "best_fid": 9.0, "counter": 1}
    assert [line["fid"] for line in log_of(config) if "fid" in line] == [9, 10, 10, 10, 10, 10]


def test_a_finished_run_leaves_what_its_help_promises(config, images):
    train(replace(config, snapshot_every=2, sample_every=3), images)
    names = {p.name for p in config.run_dir.iterdir()}
    assert names == {
        "config.json", "state.pt", "ckpt.pt", "log.jsonl", "tensorboard", "samples",
        "ckpt-000002.pt", "ckpt-000004.pt", "ckpt-000006.pt",
    }  # fmt: skip
    assert {p.name for p in (config.run_dir / "samples").iterdir()} == {"000003.png", "000006.png"}
    assert json.loads((config.run_dir / "config.json").read_text())["gf_dim"] == 4
    checkpoint = load_checkpoint(config.run_dir / "ckpt.pt")
    assert checkpoint.provenance["steps"] == 6
    assert build_generator(checkpoint).image_shape == (3, 32, 32)


def test_a_finished_run_does_nothing_more(finished, images):
    before = (finished.run_dir / "ckpt.pt").read_bytes()
    result = train(finished, images)
    assert (result.step, result.status) == (2, "finished")
    assert (finished.run_dir / "ckpt.pt").read_bytes() == before


def test_tensorboard_has_every_scalar_once(config, images):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(KeyboardInterrupt):
        train(config, images, on_update=interrupt_after(4))
    train(config, images)
    events = EventAccumulator(str(config.run_dir / "tensorboard"))
    events.Reload()
    expected = [(line["step"], pytest.approx(line["loss/d"])) for line in log_of(config)]
    assert [(event.step, event.value) for event in events.Scalars("loss/d")] == expected


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"g_lr": 1e-3}, {"steps": 7}, {"gf_dim": 8}, {"loss": "published"}]
)
def test_a_run_with_other_settings_is_not_continued(finished, images, changes):
    ((name, value),) = changes.items()
    with pytest.raises(CheckpointError, match=f"{name} = .*, asked for {value}; use another"):
        train(replace(finished, **changes), images)


def test_a_run_on_other_images_is_not_continued(finished):
    with pytest.raises(CheckpointError, match="data_sha256"):
        train(finished, synthetic_shapes(size=32, n=24, seed=1))


def test_a_genotype_file_that_changed_is_noticed(config, images, tmp_path):
    path = tmp_path / "genotype.json"
    path.write_text(MMD_NAS.to_json())
    config = replace(config, genotype=path, steps=1)
    train(config, images)
    path.write_text(MMD_NAS.to_json().replace("[0, 1, 3", "[1, 1, 3"))
    with pytest.raises(CheckpointError, match="genotype"):
        train(config, images)


def test_settings_that_do_not_change_the_result_may_differ(config, images):
    with pytest.raises(KeyboardInterrupt):
        train(config, images, on_update=interrupt_after(3))
    assert train(replace(config, log_every=2, save_every=1, threads=1), images).step == 6


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "list", "no weights"])
def test_a_damaged_state_is_one_clear_line(finished, images, damage):
    path = finished.run_dir / "state.pt"
    content = path.read_bytes()
    if damage == "list":
        torch.save([1, 2], path)
    elif damage == "no weights":
        state = state_of(finished)
        state["step_state"] = {}
        torch.save(state, path)
    else:
        path.write_bytes({"empty": b"", "cut": content[:-200], "text": b"hello" * 99}[damage])
    with pytest.raises(CheckpointError, match=r"state\.pt: ") as caught:
        train(finished, images)
    assert "\n" not in str(caught.value)


def test_a_full_disk_keeps_the_last_good_state(config, images):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow beyond 50 kB, so that the first save fails halfway.
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            train(config, images)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    names = {p.name for p in config.run_dir.iterdir()}
    assert names == {"config.json", "log.jsonl", "tensorboard"}


def test_diverging_is_one_line_and_saves_nothing_of_it(config, capsys):
    # A rate at which the first Adam update overflows float32.
    args = [f"--{k.replace('_', '-')}={v}" for k, v in
            [("run_dir", config.run_dir), ("dataset", "synthetic"), ("gf_dim", 4), ("df_dim", 4),
             ("batch_size", 6), ("steps", 6), ("save_every", 1), ("sample_every", 0),
             ("g_lr", 1e38)]]  # fmt: skip
    assert run(main, TrainConfig, prog="train", description=None, args=args) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: update ")
    assert "is not finite; the last good state is in" in error


def test_seeds_make_different_networks():
    tiny = TrainConfig(gf_dim=4, df_dim=4)
    a, b = (build_networks(replace(tiny, seed=seed)) for seed in (1, 2))
    assert not torch.equal(a.generator.l1.weight, b.generator.l1.weight)


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_preset_loads_and_fits_a_network(preset):
    config = load_preset(preset)
    with torch.device("meta"):
        networks = build_networks(replace(config, device="meta"))
    assert networks.generator_config.gf_dim == config.gf_dim


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gf_dims = 8", "unknown key 'gf_dims'; known are .*gf_dim"),
        ("steps = 'many'", "steps must be int; got 'many'"),
        ("steps = 2.5", "steps must be int"),
        ("steps = true", "steps must be int"),
        ("g_lr = '1e-4'", "g_lr must be float"),
        ("run_dir = 3", "run_dir must be Path"),
        ("threads = 'all'", "threads must be int"),
        ("precision = 'fp64'", "precision must be one of fp32, bf16; got 'fp64'"),
        ("steps = 0", "steps must be at least 1"),
        ("steps = [", "not a TOML file"),
    ],
)
def test_a_preset_that_cannot_be_is_refused_by_key(text, message, tmp_path):
    path = tmp_path / "preset.toml"
    path.write_text(text)
    with pytest.raises(InvalidValueError, match=message):
        load_preset(path)


def test_a_preset_may_write_whole_numbers_for_reals(tmp_path):
    (tmp_path / "p.toml").write_text("upper_bound_end = 16\nrun_dir = 'runs/x'\nthreads = 2")
    config = load_preset(tmp_path / "p.toml")
    assert (config.upper_bound_end, config.run_dir, config.threads) == (16.0, Path("runs/x"), 2)


@pytest.mark.parametrize(
    "changes",
    [{"steps": 0}, {"batch_size": 1}, {"save_every": 0}, {"g_lr": 0.0}, {"d_lr": float("nan")},
     {"beta1": 1.0}, {"beta2": -0.1}, {"seed": -1}, {"threads": 0}],
)  # fmt: skip
def test_settings_that_cannot_train_are_refused(changes):
    with pytest.raises(InvalidValueError, match=next(iter(changes))):
        TrainConfig(**changes)


@pytest.mark.parametrize(
    "changes",
    [{"genotype": Path("none.json")}, {"activation": "gelu"}, {"shape": "mnist"},
     {"latent_dim": 100}],
)  # fmt: skip
def test_networks_that_cannot_be_are_refused(changes):
    with pytest.raises(InvalidValueError):
        build_networks(TrainConfig(gf_dim=4, df_dim=4, **changes))


def command(*args):
    return subprocess.run(
        [sys.executable, "-m", "nas_gan.train", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_trains_a_preset_with_overrides(tmp_path):
    args = ["--config", PRESETS / "smoke.toml", "--steps", 2, "--run-dir", tmp_path / "run"]
    done = command(*args)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"2 steps, {tmp_path / 'run' / 'ckpt.pt'}\n"
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["steps"], config["gf_dim"], config["dataset"]) == (2, 8, "synthetic")


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--config", "none.toml"], 1, "error: none.toml: no such preset; see nas_gan/presets\n"),
        (["--steps", "many"], 2, None),
        (["--dataset", "imagenet"], 1, "error: data set 'imagenet' is not known; choose one of "),
        (["--steps", "0"], 2, None),
        (["--device", "abacus"], 1, "error: device 'abacus' cannot be used ("),
    ],
)
def test_what_is_wrong_with_a_command_line_is_told(args, code, message, monkeypatch, capsys):
    from nas_gan.train import _preset_from_arguments

    monkeypatch.setattr(sys, "argv", ["train", *args])
    options = dict(prog="train", description=None, default=_preset_from_arguments)
    assert run(main, TrainConfig, **options) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    if message is not None:
        assert error.startswith(message)
        assert error.count("\n") == 1
