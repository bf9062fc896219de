import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nas_gan.checkpoint import build_generator, build_saved_discriminator, load_checkpoint
from nas_gan.cli import run
from nas_gan.errors import InvalidValueError
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latents_of
from nas_gan.train import main
from nas_gan.training.config import TrainConfig
from nas_gan.training.distributed import Processes, check_processes
from nas_gan.training.pace import without_pace
from nas_gan.training.preset import PRESETS, load_preset, preset_from_arguments


def log_of(run_dir):
    """The log, without the scalars that tell of the machine."""
    lines = (run_dir / "log.jsonl").read_text().splitlines()
    return [without_pace(json.loads(line)) for line in lines]


TRAINING = sorted(
    path.stem for path in PRESETS.glob("*.toml") if not path.stem.startswith("search")
)
TOY = {
    "dataset": "synthetic", "gf_dim": 4, "df_dim": 4, "batch_size": 4, "steps": 2, "eval_every": 0,
    "upper_bound": "fixed", "sample_every": 0, "precision": "fp32",
}  # fmt: skip


def flags(settings):
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]


def train_command(*args, **settings):
    """The command in this process; returns its exit code."""
    arguments = [*map(str, args), *flags(settings)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train", *arguments])
        return run(
            main, TrainConfig, prog="train", description=None,
            default=lambda: preset_from_arguments(TrainConfig),
        )  # fmt: skip


@pytest.mark.parametrize("preset", TRAINING)
def test_every_preset_trains_at_toy_size_by_its_name(preset, tmp_path, capsys):
    assert train_command("--config", preset, **TOY, run_dir=tmp_path) == 0, capsys.readouterr().err
    checkpoint = load_checkpoint(tmp_path / "ckpt.pt")
    config = load_preset(Path(preset), TrainConfig)
    generator = build_generator(checkpoint)
    assert checkpoint.architecture["kind"] == config.model
    interface = interface_of(generator)
    assert interface.image_shape[0] == (config.image_channels or 3)
    images = generator(latents_of(interface, 2, seed=0))
    assert images.shape == (2, *interface.image_shape)
    assert build_saved_discriminator(checkpoint) is not None


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_compiled_run_has_the_curve_of_the_plain_one(tmp_path):
    settings = TOY | {"model": "dense-cgan", "loss": "logistic", "log_every": 1}
    for name, extra in (("plain", []), ("compiled", ["--compile", "--compile-backend", "eager"])):
        assert train_command(*extra, **settings, run_dir=tmp_path / name) == 0
    plain, compiled = (log_of(tmp_path / n) for n in ("plain", "compiled"))
    assert len(plain) == 2
    for expected, found in zip(plain, compiled, strict=True):
        assert found == pytest.approx(expected, rel=1e-6)


def test_diverging_is_one_line_and_keeps_the_last_good_state(tmp_path, capsys):
    # A rate at which the first Adam update overflows float32.
    settings = TOY | {"steps": 6, "save_every": 1, "g_lr": 1e38, "run_dir": tmp_path / "run"}
    assert train_command(**settings) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: update ")
    assert "is not finite; the last good state is in" in error


def command(*args, module="nas_gan.train"):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


@pytest.mark.parametrize(
    ("preset", "setting", "value"),
    [
        ("adversarial_nas_cifar10", "generator_batch_size", 80),
        ("adversarial_nas_stl10", "generator_batch_size", 256),
        ("mmd_gan_celeba", "fit", "crop-72x88"),
        ("mnist_condgan", "eval_metrics", ("accuracy",)),
    ],
)
def test_presets_have_what_was_published(preset, setting, value):
    assert getattr(load_preset(Path(preset), TrainConfig), setting) == value


def test_the_command_trains_a_preset_with_overrides(tmp_path):
    args = ["--config", PRESETS / "smoke.toml", "--steps", 2, "--run-dir", tmp_path / "run"]
    done = command(*args)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"2 steps, {tmp_path / 'run' / 'ckpt.pt'}\n"
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["steps"], config["gf_dim"], config["dataset"]) == (2, 8, "synthetic")


def test_two_processes_have_the_curve_of_one_and_write_one_directory(tmp_path):
    # Not Adam: it divides by gradients, and makes much of rounding where they are near 0.
    settings = TOY | {
        "model": "mmd-gan", "steps": 4, "batch_size": 8, "log_every": 1, "loss": "rand_g_mix",
        "g_optimizer": "SGD", "d_optimizer": "SGD", "g_lr": 0.05, "d_lr": 0.05,
    }  # fmt: skip
    args = [*flags(settings), "--log-gradients", "--flip"]
    assert train_command(*args, run_dir=tmp_path / "one") == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = command(
        "--nproc-per-node", 2, "--master-addr", "127.0.0.1", "--master-port", port,
        "-m", "nas_gan.train", *args, "--run-dir", tmp_path / "two", module="torch.distributed.run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"4 steps, {tmp_path / 'two' / 'ckpt.pt'}\n"
    one, two = (log_of(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 4
    for expected, found in zip(one, two, strict=True):
        # float32, sums in another order, four updates.
        assert found == pytest.approx(expected, rel=2e-4, abs=2e-6)
    names = [sorted(p.name for p in (tmp_path / d).iterdir()) for d in ("one", "two")]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--config", "none.toml"], 1, "error: none.toml: no such preset; see nas_gan/presets\n"),
        (["--config", "dcgn"], 1, "error: preset 'dcgn' is not known; did you mean dcgan? "),
        (["--steps", "many"], 2, None),
        (
            ["--dataset", "cifar11"],
            1,
            "error: data set 'cifar11' is not known; did you mean cifar1",
        ),
        (["--steps", "0"], 2, None),
        (["--device", "abacus"], 1, "error: device 'abacus' cannot be used ("),
        (["--model", "dcgam"], 1, "error: model 'dcgam' is not known; did you mean dcgan? "),
        (["--loss", "latst"], 1, "error: loss 'latst' is not known; did you mean 'latest'? "),
        (["--activation", "pmich"], 1, "error: activation 'pmich' is not known; did you mean pmi"),
        (["--image-size", "30"], 1, "error: image_size 30 does not divide by 8"),
        (["--model", "mnist-dcgan", "--image-size", "30"], 1, "error: image_size 30 does not divi"),
        (
            ["--n-classes", "1"],
            1,
            "error: a conditional network has at least 2 classes, any other 0",
        ),
        (["--model", "dcgan", "--activation", "relu"], 1, "error: activation is for the searched"),
        (["--g-optimizer", "Adamm"], 1, "error: optimizer 'Adamm' is not known; did you mean Adam"),
        (["--g-scheduler", "StepLRR"], 1, "error: scheduler 'StepLRR' is not known; did you mean "),
        (["--d-skip-from", "0", "--n-critic", "2"], 1, "error: --d-skip-from goes with n_critic 1"),
        (
            ["--precision", "fp64", "--device", "mps"],
            1,
            "error: precision fp64 needs double precision, which device 'mps' does not have; try ",
        ),
        (["--compile", "--compile-backend", "x"], 1, "error: compile_backend 'x' is not known; "),
    ],
)
def test_what_is_wrong_with_a_command_line_is_told(args, code, message, tmp_path, capsys):
    toy = {"gf_dim": 4, "df_dim": 4, "batch_size": 4, "run_dir": tmp_path / "run"}
    base = [] if "--dataset" in args else ["--dataset", "synthetic"]
    assert train_command(*base, *args, **toy) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()
    if message is not None:
        *_, last = error.splitlines()
        assert last.startswith(message.rstrip("\n"))


def test_a_remote_run_goes_on_on_another_machine_as_if_it_had_stayed(tmp_path, monkeypatch, capsys):
    toy = {**TOY, "steps": 4, "save_every": 2, "log_every": 2}
    assert train_command(**toy, run_dir=tmp_path / "whole") == 0
    there = f"memory://{tmp_path.name}/run"
    for machine, steps in (("first", 2), ("second", 4)):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        capsys.readouterr()
        assert train_command(**{**toy, "steps": steps}, run_dir=there) == 0
        assert capsys.readouterr().out == f"{steps} steps, {there}/ckpt.pt\n"
    whole, parts = (
        load_checkpoint(path / "ckpt.pt").generator for path in (tmp_path / "whole", Path(there))
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    [copy] = (tmp_path / "second").rglob("log.jsonl")
    assert log_of(copy.parent) == log_of(tmp_path / "whole")


def test_a_remote_directory_is_for_one_process(monkeypatch):
    with pytest.raises(InvalidValueError, match=r"memory://run, which is for a run in one process"):
        check_processes(Path("memory://run"), Processes(0, 2))


def test_an_option_that_takes_no_address_says_so(capsys):
    assert train_command("--genotype", "s3://bucket/genotype.json", **TOY) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == (
        "error: --genotype is s3://bucket/genotype.json; it takes a path on this machine"
    )
