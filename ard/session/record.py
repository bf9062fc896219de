"""The record of a run: its directory, its journal, and the settings that measurements depend on."""

from __future__ import annotations

import platform
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from ard.errors import ArdError, JournalError
from ard.measuring.journal import FileJournal
from ard.session.config import EffortName, SearchConfig, SweepConfig
from ard.session.setting import Setting, samples_of
from nas_gan.errors import NasGanError
from nas_gan.files import sha256, write_json
from nas_gan.metrics.given_reference import NAMED, open_given
from nas_gan.networks.interface import GeneratorInterface
from nas_gan.reading import Fields, read_json
from nas_gan.remote.addresses import is_remote
from nas_gan.remote.fetching import local_file
from nas_gan.settings import chosen_settings, plain_settings
from nas_gan.zoo import local_path


def run_directory(config: SweepConfig) -> Path:
    """The directory of the run, which need not exist yet.

    Raises:
        ArdError: the path is a file.
    """
    run_dir = config.run_dir or Path("runs") / local_path(config.checkpoint).stem
    if not is_remote(run_dir) and run_dir.exists() and not run_dir.is_dir():
        raise ArdError(f"{run_dir} is a file; use another run directory")
    return run_dir


def open_journal(config: SweepConfig, setting: Setting, run_dir: Path) -> FileJournal:
    """Open the journal of a run, and write the run's settings beside it.

    A run that is given more effort than before keeps its scores of single layers, if their settings
    agree, and recovers its whole plans anew.

    Raises:
        JournalError: the directory belongs to a run with other settings, or its journal is damaged.
    """
    supersede = partial(_remove_recovered, run_dir) if effort_raised(config, run_dir) else None
    try:
        journal = FileJournal(run_dir / "journal.jsonl", fingerprint(config, setting), supersede)
    except JournalError as error:
        raise JournalError(error.message, setting="run_dir") from error
    write_json(run_dir / "config.json", resolved_config(config, setting, run_dir))
    return journal


def effort_raised(config: SweepConfig, run_dir: Path) -> bool:
    """Whether the run in a directory had less effort than this one."""
    efforts = get_args(EffortName)
    try:
        before = Fields(read_json(run_dir / "config.json"), "config.json").text("effort")
    except NasGanError:  # no run yet, or one of a version without efforts
        return False
    return before in efforts and efforts.index(before) < efforts.index(config.effort)


def _remove_recovered(run_dir: Path) -> None:
    """Generators that were recovered with less effort must not be taken for others."""
    for path in (run_dir / "recovered").glob("*.pt"):
        path.unlink()


def fingerprint(config: SweepConfig, setting: Setting) -> dict[str, Any]:
    """The settings that a recorded score depends on, unlike budget, objective and methods."""
    names = ["sweep_samples", "closed_form", "model", "seed"]
    if isinstance(config, SearchConfig):
        names += ["recover_steps", "recover_batch", "recover_lr"]
        names += ["feature_weight", "stage_ratio", "polish_steps"]
    names += [name for name in ("model_args", "state_key") if name in config.given()]
    return {
        "checkpoint": sha256(local_file(config.checkpoint)),
        "extractor": setting.extractor.name,
        "metric": setting.metric.name,
        "estimator": setting.metric.estimator,
        "reference": setting.reference.source,
        **_given_reference(config.reference),
        "samples": samples_of(config, setting.metric, setting.extractor),
        **_interface(setting.interface),
        **chosen_settings(config, names),
    }


def _given_reference(choice: str) -> dict[str, Any]:
    """The bytes of a reference that was given by its path, where others may lie by now."""
    return {} if choice in NAMED else {"reference_sha256": open_given(choice).digest}


def _interface(interface: GeneratorInterface) -> dict[str, Any]:
    """How a network with an interface of its own is called, and on which inputs."""
    if interface.calling is None:
        return {}
    inputs = {} if interface.inputs is None else {"inputs": interface.inputs.digest}
    return {"interface": interface.to_dict(), **inputs}


def resolved_config(config: SweepConfig, setting: Setting, run_dir: Path) -> dict[str, Any]:
    """Every setting with its default filled in and with what was found for the automatic ones."""
    return {
        **plain_settings(config),
        "run_dir": str(run_dir),
        "samples": samples_of(config, setting.metric, setting.extractor),
        "extractor": setting.extractor.name,
        "reference_source": setting.reference.source,
        "environment": environment(),
    }


def environment() -> dict[str, str]:
    """The versions and the machine behind the run."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": str(torch.get_num_threads()),
    }
