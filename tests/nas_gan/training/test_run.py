import json
import os
import resource
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from nas_gan import sample
from nas_gan.checkpoint import build_generator, load_checkpoint
from nas_gan.data.images import FileImages
from nas_gan.data.loading import synthetic_shapes
from nas_gan.errors import CheckpointError, InvalidValueError
from nas_gan.interrupts import Terminated, interruptible
from nas_gan.metrics.classifier import class_accuracy, train_classifier
from nas_gan.metrics.collecting import Wanted, collect
from nas_gan.metrics.features import make_extractor
from nas_gan.metrics.sources import GeneratedSource
from nas_gan.networks.genotype import MMD_NAS
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latents_of
from nas_gan.training import skipping
from nas_gan.training.build import build_networks, load_images
from nas_gan.training.config import TrainConfig
from nas_gan.training.distributed import Processes
from nas_gan.training.measuring import make_measure
from nas_gan.training.pace import without_pace
from nas_gan.training.run import train


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


# What has a state of its own: schedules, noise, feedback of the loss.
EVERYTHING = {
    "g_scheduler": "StepLR", "d_scheduler": "StepLR", "scheduler_gamma": 0.5,
    "scheduler_step_size": 2,
    "g_optimizer": "RMSprop", "g_clip": 1.0, "ema_warm_up": True,
    "image_noise": 0.1, "image_noise_steps": 5, "loss": "rand_g_mix", "flip": True,
    "weight_decay": 1e-3,
}  # fmt: skip


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
    """The log, without the scalars that tell of the machine."""
    lines = (config.run_dir / "log.jsonl").read_text().splitlines()
    return [without_pace(json.loads(line)) for line in lines]


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
        train(config, images, on_update=interrupt_after(3), measure=lambda net: {"fid": next(fids)})
    train(config, images, measure=lambda net: {"fid": 10.0})
    bound = state_of(config)["step_state"]["upper_bound"]
    assert bound == {"value": 4.0, "best_fid": 9.0, "counter": 1}
    assert [line["fid"] for line in log_of(config) if "fid" in line] == [9, 10, 10, 10, 10, 10]


@pytest.mark.parametrize("at", [1, 3, 6])
def test_an_interrupted_evaluation_is_made_up_for_and_counts_once(at, config, images):
    config = replace(config, upper_bound="saturate", eval_every=1, save_every=100)
    whole = replace(config, run_dir=config.run_dir / "whole")
    parts = replace(config, run_dir=config.run_dir / "parts")
    values = [9.0, 11.0, 10.0, 8.0, 10.0, 10.0]
    fids = iter(values)
    train(whole, images, measure=lambda net: {"fid": next(fids)})

    fids, calls = iter(values), 0

    def measure(net):
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        return {"fid": next(fids)}

    with pytest.raises(KeyboardInterrupt):
        train(parts, images, measure=measure)
    state = state_of(parts)
    assert (state["step"], state["unmeasured"]) == (at, True)
    train(parts, images, measure=measure)
    assert log_of(parts) == log_of(whole)
    assert equal(state_of(parts), state_of(whole))
    best = [load_checkpoint(c.run_dir / "best.pt") for c in (whole, parts)]
    assert best[0].provenance["fid"] == best[1].provenance["fid"] == 8.0
    assert equal(best[0].generator, best[1].generator)


def test_an_interrupt_waits_for_the_step_and_its_state_is_saved(config, images):
    config = replace(config, save_every=100)
    whole = replace(config, run_dir=config.run_dir / "whole")
    parts = replace(config, run_dir=config.run_dir / "parts")
    train(whole, images)

    done = 0

    def terminate_in_update_4(finished):
        nonlocal done
        done += finished
        if done == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with interruptible(), pytest.raises(Terminated):
        train(parts, images, on_update=terminate_in_update_4)
    assert state_of(parts)["step"] == 4
    assert [line["step"] for line in log_of(parts)] == [1, 2, 3, 4]
    train(parts, images)
    assert log_of(parts) == log_of(whole)
    assert equal(state_of(parts), state_of(whole))


def test_a_run_saves_by_time_too(config, images):
    saved = []

    def look(finished):
        path = config.run_dir / "state.pt"
        if path.exists():
            saved.append(state_of(config)["step"])

    config = replace(config, save_every=100, save_every_minutes=1e-9)
    train(config, images, on_update=look)
    assert saved == [1, 2, 3, 4, 5]  # what is there as the next update ends


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
    "changes",
    [{"seed": 1}, {"g_lr": 1e-3}, {"steps": 7}, {"gf_dim": 8}, {"loss": "published"},
     {"precision": "fp64"}],
)  # fmt: skip
def test_a_run_with_other_settings_is_not_continued(finished, images, changes):
    ((name, value),) = changes.items()
    with pytest.raises(CheckpointError, match=f"{name} = .*, asked for {value}; use another"):
        train(replace(finished, **changes), images)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "the geometric upper bound depends on the number of steps"),
        (
            {"upper_bound": "fixed", "g_scheduler": "linear_decay"},
            "g_scheduler linear_decay depends on the number of steps",
        ),
    ],
)
def test_a_run_that_follows_its_own_end_is_not_prolonged(config, images, changes, reason):
    config = replace(config, steps=1, **changes)
    train(config, images)
    with pytest.raises(CheckpointError, match=f"steps = 1, asked for 2; use .*{reason}"):
        train(replace(config, steps=2), images)


def test_another_run_goes_on_with_more_steps_as_if_it_had_never_ended(config, images):
    whole, parts = (
        replace(
            config, run_dir=config.run_dir / name, upper_bound="fixed", n_critic=2, **EVERYTHING
        )
        for name in ("whole", "parts")
    )
    train(whole, images)
    train(replace(parts, steps=3), images)
    torch.rand(5)  # somebody else draws in between
    assert train(parts, images).step == 6
    assert log_of(parts) == log_of(whole)
    assert equal(state_of(parts), state_of(whole))
    assert train(replace(parts, steps=2), images).step == 6  # fewer: nothing to do


def test_double_precision_has_the_curve_of_single_precision(config, images):
    config = replace(config, steps=3, log_health=True)
    single, double = (
        replace(config, run_dir=config.run_dir / p, precision=p) for p in ("fp32", "fp64")
    )
    for run_config in (single, double):
        train(run_config, images)
    for ours, theirs in zip(log_of(double), log_of(single), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
        assert ours["loss/d"] != theirs["loss/d"]
    state = state_of(double)["step_state"]
    for network in ("generator", "discriminator", "average"):
        types = {t.dtype for t in state[network].values() if t.is_floating_point()}
        assert types == {torch.float64}


def test_a_run_in_double_precision_is_resumed_to_the_bit(config, images):
    config = replace(config, precision="fp64", **EVERYTHING)
    whole, parts = (replace(config, run_dir=config.run_dir / name) for name in ("whole", "parts"))
    train(whole, images)
    with pytest.raises(KeyboardInterrupt):
        train(parts, images, on_update=interrupt_after(4))
    assert train(parts, images).step == 6
    assert log_of(parts) == log_of(whole)
    assert equal(state_of(parts), state_of(whole))


def test_a_run_in_double_precision_is_measured_drawn_and_saved_in_float32(config, images):
    config = replace(
        config, precision="fp64", steps=1, sample_every=1, upper_bound="fixed", eval_every=1
    )
    seen, grid = [], config.run_dir / "grid.png"

    def measure(net):
        seen.append(net(latents_of(interface_of(net), 2, seed=0)))
        return {"fid": 1.0}

    train(config, images, measure=measure)
    for name in ("ckpt.pt", "best.pt"):
        saved = torch.load(config.run_dir / name, weights_only=True)
        weights = [*saved["generator"].values(), *saved["discriminator"].values()]
        assert {t.dtype for t in weights if t.is_floating_point()} == {torch.float32}
    generator = build_generator(load_checkpoint(config.run_dir / "ckpt.pt")).eval()
    # The same weights in another memory layout.
    latents = latents_of(interface_of(generator), 2, seed=0)
    assert torch.allclose(generator(latents), seen[0], atol=1e-5)
    assert sample.main(sample.SampleConfig(config.run_dir / "ckpt.pt", out=grid, n=2)) == 0
    assert grid.exists()
    assert (config.run_dir / "samples" / "000001.png").exists()


def test_the_best_weights_are_kept_apart(config, images):
    fids = iter([9.0, 7.0, 8.0])
    config = replace(config, steps=3, eval_every=1)
    nets = []

    def measure(net):
        nets.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
        return {"fid": next(fids)}

    train(config, images, measure=measure)
    best, last = (load_checkpoint(config.run_dir / f"{name}.pt") for name in ("best", "ckpt"))
    assert (best.provenance["steps"], best.provenance["fid"]) == (2, 7.0)
    assert equal(best.generator, nets[1])
    assert equal(last.generator, nets[2])


def test_labels_reach_both_networks_and_the_checkpoint(tmp_path):
    images = synthetic_shapes(size=28, n=24, channels=1)
    config = TrainConfig(
        model="mnist-condgan", dataset="synthetic", run_dir=tmp_path, gf_dim=4, df_dim=4,
        loss="logistic", batch_size=6, steps=2, upper_bound="fixed", sample_every=2,
    )  # fmt: skip
    assert train(config, images).status == "finished"
    generator = build_generator(load_checkpoint(tmp_path / "ckpt.pt"))
    interface = interface_of(generator)
    assert (interface.n_classes, interface.latent_dim) == (10, 100)
    latents = latents_of(interface, 2, seed=0)
    other = latents.clone()
    other[:, 100:] = latents[:, 100:].roll(1, dims=1)
    assert not torch.equal(generator(latents), generator(other))
    with pytest.raises(InvalidValueError, match="synthetic has 10 classes; n_classes is 7"):
        train(replace(config, n_classes=7, run_dir=tmp_path / "b"), images)
    images.labels = None
    with pytest.raises(InvalidValueError, match="synthetic has no labels"):
        train(replace(config, run_dir=tmp_path / "c"), images)


def test_a_larger_generator_batch_and_left_out_updates_are_resumed_to_the_bit(
    config, images, monkeypatch
):
    # The average begins at 0 and takes hundreds of updates to get past the published threshold.
    monkeypatch.setattr(skipping, "THRESHOLD", 0.003)
    settings = {"generator_batch_size": 8, "d_skip_from": 1, "loss": "logistic", "batch_size": 4}
    whole, parts = (
        replace(config, run_dir=config.run_dir / name, **settings) for name in ("whole", "parts")
    )
    train(whole, images)
    with pytest.raises(KeyboardInterrupt):
        train(parts, images, on_update=interrupt_after(4))
    train(parts, images)
    assert log_of(parts) == log_of(whole)
    assert equal(state_of(parts), state_of(whole))
    assert 0 < log_of(whole)[2]["d_skipped"] < log_of(whole)[-1]["d_skipped"]
    with pytest.raises(CheckpointError, match="generator_batch_size = 8, asked for 10"):
        train(replace(parts, generator_batch_size=10), images)


def test_a_generator_batch_of_the_same_size_changes_nothing(config, images):
    for name, size in (("plain", None), ("same", 6)):
        train(replace(config, run_dir=config.run_dir / name, generator_batch_size=size), images)
    plain, same = (log_of(replace(config, run_dir=config.run_dir / n)) for n in ("plain", "same"))
    assert plain == same


def test_a_conditional_run_logs_the_accuracy_of_its_images(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = synthetic_shapes(size=28, n=60, channels=1)
    config = TrainConfig(
        model="mnist-condgan", dataset="synthetic", run_dir=tmp_path / "run", gf_dim=4, df_dim=4,
        loss="logistic", batch_size=6, steps=2, upper_bound="fixed", sample_every=0, eval_every=1,
        eval_samples=40, eval_metrics=("accuracy",),
    )  # fmt: skip
    measure = make_measure(config, images)
    train(config, images, measure=measure)
    lines = [line for line in log_of(config) if "accuracy" in line]
    assert [line["step"] for line in lines] == [1, 2]
    generator = build_generator(load_checkpoint(tmp_path / "run" / "ckpt.pt"))
    classifier = train_classifier(images)
    expected = class_accuracy(generator, classifier, 40, config.seed + 4)
    assert lines[-1]["accuracy"] == expected
    assert not (tmp_path / "run" / "best.pt").exists()  # the best is that of the FID


def test_standing_statistics_change_what_is_saved_and_not_what_is_trained(config, images, tmp_path):
    standing = replace(config, run_dir=tmp_path / "standing", standing_statistics=16)
    for each in (config, standing):
        train(each, images)
    a, b = (torch.load(c.run_dir / "state.pt", weights_only=True) for c in (config, standing))
    assert equal(a, b)
    plain, anew = (load_checkpoint(c.run_dir / "ckpt.pt") for c in (config, standing))
    changed = {n for n, t in plain.generator.items() if not torch.equal(t, anew.generator[n])}
    norms = {n.rpartition(".")[0] for n in plain.generator if n.endswith("running_mean")}
    assert {n for n in changed if n.endswith("running_mean")} == {
        f"{n}.running_mean" for n in norms
    }
    assert {n.rpartition(".")[0] for n in changed} == norms
    # What is measured along the way is what is saved.
    measured = {}

    def measure(generator):
        measured.update(generator.state_dict())
        return {"fid": 1.0}

    again = replace(standing, run_dir=tmp_path / "again", eval_every=1)
    train(again, images, measure=measure)
    saved = load_checkpoint(again.run_dir / "ckpt.pt").generator
    assert all(torch.equal(t, measured[n].to(t.dtype)) for n, t in saved.items())


def test_a_class_score_is_that_of_an_evaluation(config, images):
    config = replace(
        config, eval_every=1, eval_metrics=("is",), eval_samples=24, upper_bound="fixed",
        features="efficientnet-lite0",
    )  # fmt: skip
    generator = build_networks(config).averaged
    measure = make_measure(config, images)
    assert measure is not None
    figures = measure(generator)
    latents = latents_of(interface_of(generator), 24, config.seed + 4)
    source = GeneratedSource("the run", generator, latents)
    extractor = make_extractor("efficientnet-lite0")
    expected = collect(
        source, Wanted(class_score=True), lambda: extractor, seed=config.seed + 4
    ).class_score
    assert expected is not None
    assert figures == {
        "class_score": pytest.approx(expected.mean, rel=1e-4),
        "class_score_std": pytest.approx(expected.std, rel=1e-2, abs=1e-6),
    }


def test_an_accuracy_needs_classes(config, images):
    config = replace(config, eval_every=1, eval_metrics=("accuracy",), upper_bound="fixed")
    with pytest.raises(InvalidValueError, match="conditional generators; mmd-nas has no classes"):
        make_measure(config, images)


def test_batches_that_do_not_divide_are_refused_before_anything_is_written(config, images):
    for changes, n in (({}, 6), ({"generator_batch_size": 10}, 10)):
        processes = Processes(1, 4 if n == 6 else 3)
        with pytest.raises(InvalidValueError, match=f"batch of {n} does not divide into"):
            train(replace(config, **changes), images, processes=processes)
    assert not config.run_dir.exists()


def test_activation_parameters_are_logged_and_freeze_at_their_epoch(config, images):
    config = replace(
        config, log_activations=True, freeze_activations_from=1, g_lr=0.01, batch_size=12
    )
    train(config, images)  # two updates an epoch
    betas = [line["activation/g.to_rgb.1.beta/mean"] for line in log_of(config)]
    assert betas[0] != betas[1]
    assert len(set(betas[1:])) == 1


@pytest.mark.parametrize(
    "changes",
    [{"steps": 0}, {"batch_size": 1}, {"save_every": 0}, {"g_lr": 0.0}, {"d_lr": float("nan")},
     {"beta1": 1.0}, {"beta2": -0.1}, {"seed": -1}, {"threads": 0}, {"gf_dim": 0},
     {"image_channels": 2}, {"weight_decay": -1.0}, {"image_noise": -0.1},
     {"generator_batch_size": 64}, {"d_skip_from": -1}, {"eval_metrics": ("kid",)},
     {"eval_every": 1, "eval_metrics": ()},
     {"upper_bound": "saturate", "eval_every": 1, "eval_metrics": ("accuracy",)}],
)  # fmt: skip
def test_settings_that_cannot_train_are_refused(changes):
    with pytest.raises(InvalidValueError, match=next(iter(changes))):
        TrainConfig(**changes)


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


# The command.


def test_a_run_does_not_go_on_with_other_pixels_under_the_same_names(config, tmp_path):
    def written(level):
        files = [tmp_path / f"{number}.bmp" for number in range(12)]
        for number, file in enumerate(files):
            Image.new("RGB", (32, 32), (level, number, 0)).save(file)
        return FileImages("noise", files, 32)

    train(replace(config, steps=3, upper_bound="fixed"), written(10))
    with pytest.raises(CheckpointError, match=r"data_sha256 .* \(other images, or another backg"):
        train(replace(config, steps=6, upper_bound="fixed"), written(11))
    finished = train(replace(config, steps=6, upper_bound="fixed"), written(10))
    assert finished.step == 6


def test_an_fid_within_its_noise_is_no_better(config, images):
    config = replace(config, steps=4, eval_every=1, upper_bound="fixed")
    figures = iter([(10.0, 1.0), (9.0, 1.0), (8.4, 1.0), (9.9, 0.1)])

    def measure(generator):
        fid, error = next(figures)
        return {"fid": fid, "fid_se": error}

    train(config, images, measure=measure)
    # 9.0 is less than sqrt(2) below 10.0, and 8.4 is more.
    known = load_checkpoint(config.run_dir / "best.pt").provenance
    assert (known["steps"], known["fid"], known["fid_se"]) == (3, 8.4, 1.0)


def test_a_collapsed_run_stops_and_keeps_the_state_before_it(config, images):
    config = replace(
        config, steps=9, eval_every=1, save_every=1, upper_bound="fixed", alarm_fid_factor=3.0,
        alarm_patience=2,
    )  # fmt: skip
    figures = iter([10.0, 20.0, 40.0, 41.0, 5.0])
    result = train(config, images, measure=lambda generator: {"fid": next(figures)})
    assert (result.status, result.step) == ("stopped", 4)
    assert "FID 41, over 3 times the best, 10" in result.message
    assert load_checkpoint(config.run_dir / "ckpt.pt").provenance["steps"] == 2
    assert torch.load(config.run_dir / "state.pt")["step"] == 2


def test_the_log_tells_of_the_machine(config, images):
    train(config, images)
    rows = [json.loads(line) for line in (config.run_dir / "log.jsonl").read_text().splitlines()]
    times = [row["pace/wall_s"] for row in rows if "pace/wall_s" in row]
    assert times
    assert times == sorted(times)
    assert rows[-1]["pace/left_s"] == 0
    assert all(row["pace/images_per_s"] > 0 for row in rows if "pace/images_per_s" in row)


def test_the_standard_error_of_a_mean_is_that_of_its_groups():
    from nas_gan.training.measuring import standard_error

    rng = np.random.default_rng(0)
    features = rng.normal(size=(20_000, 1)).astype(np.float32)
    errors = [
        standard_error(features[1000 * i : 1000 * (i + 1)], lambda rows: float(rows.mean()))
        for i in range(20)
    ]
    # The standard error of the mean of 1000 numbers of variance 1; each estimate has 4 degrees of
    # freedom.
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(1000**-0.5, rel=0.3)
    assert standard_error(features[:9], lambda rows: float(rows.mean())) == 0


def test_settings_that_came_later_leave_no_trace_at_their_defaults(config, images):
    """A run from before them is resumed; with another value it is another run, either way."""
    later = replace(config, diffaugment=("color",))
    train(replace(config, steps=2, upper_bound="fixed"), images)
    known = torch.load(config.run_dir / "state.pt")["config"]
    assert not {"diffaugment", "loss_settings", "g_optimizer_settings"} & known.keys()
    with pytest.raises(CheckpointError, match=r"diffaugment = None, asked for \('color',\)"):
        train(replace(later, upper_bound="fixed"), images)
    other = replace(later, run_dir=config.run_dir.parent / "other", upper_bound="fixed")
    train(replace(other, steps=2), images)
    with pytest.raises(CheckpointError, match=r"diffaugment = \('color',\), asked for None"):
        train(replace(other, diffaugment=()), images)


def test_an_augmented_run_resumes_exactly(config, images):
    whole = replace(config, diffaugment=("color", "translation", "cutout"))
    parts = replace(whole, run_dir=config.run_dir.parent / "parts")
    train(whole, images)
    with pytest.raises(KeyboardInterrupt):
        train(parts, images, on_update=interrupt_after(4))
    train(parts, images)
    states = [load_checkpoint(c.run_dir / "ckpt.pt") for c in (whole, parts)]
    assert equal(states[0].generator, states[1].generator)
    assert equal(states[0].discriminator, states[1].discriminator)


def test_networks_for_images_that_are_no_squares_are_trained_and_read_back(tmp_path):
    up = {"type": "conv_transpose", "kernel": 4, "stride": 2, "padding": 1}
    networks = {
        "generator": {
            "kind": "layers", "input": [8], "n_classes": 0,
            "layers": [
                {"type": "linear", "out": 4 * 4 * 8}, {"type": "reshape", "to": [4, 4, 8]},
                {**up, "out": 3}, {"type": "output"},
            ],
        },
        "discriminator": {
            "kind": "layers", "input": [3, 8, 16], "n_classes": 0,
            "layers": [{"type": "flatten"}, {"type": "linear", "out": 2}],
        },
    }  # fmt: skip
    (tmp_path / "networks.json").write_text(json.dumps(networks))
    config = replace(
        TINY, networks=tmp_path / "networks.json", run_dir=tmp_path / "run",
        diffaugment=("cutout",), sample_every=6,
    )  # fmt: skip
    images = load_images(config)
    assert images[torch.tensor([0])].shape == (1, 3, 8, 16)
    assert train(config, images).status == "finished"
    known = load_checkpoint(config.run_dir / "ckpt.pt")
    assert interface_of(build_generator(known)).image_size == (8, 16)
    assert (known.provenance["resolution"], known.provenance["data_sha256"]) == (16, images.digest)
