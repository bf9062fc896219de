"""A search: built from its settings, resumed if unfinished, kept in its directory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from nas_gan.architecture_search.build import build_step, build_supernets
from nas_gan.architecture_search.config import SearchConfig
from nas_gan.architecture_search.files import SearchFiles, fingerprint
from nas_gan.data.images import Images
from nas_gan.files import write_json
from nas_gan.interrupts import held_back
from nas_gan.settings import plain_settings
from nas_gan.training.distributed import Processes
from nas_gan.training.log import RunLog
from nas_gan.training.loop import Every, EveryMinutes, TrainingResult, run_training
from nas_gan.training.state import resume


def search(
    config: SearchConfig,
    images: Images,
    *,
    on_update: Callable[[int], None] = lambda n: None,
    processes: Processes | None = None,
) -> TrainingResult:
    """Search what `config` describes, or resume it, and keep the search in its directory.

    Args:
        config: every setting of the search.
        images: the data set, in the size of the networks.
        on_update: called with the number of updates finished since its last call.
        processes: those of the search; only the main one writes. None is this one alone.

    Raises:
        InvalidValueError: the settings describe no search, or do not fit the data.
        CheckpointError: the directory holds a search with other settings or data.
    """
    processes = processes or Processes(device=config.device)
    networks = build_supernets(config)
    step = build_step(config, networks, images, processes)
    settings = fingerprint(config, images)
    first = resume(config.run_dir, settings, step).done
    if not processes.is_main:
        with held_back():  # the main process ends the search, between two steps
            return run_training(step, n_steps=config.steps, first=first)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    write_json(config.run_dir / "config.json", plain_settings(config))
    with closing(RunLog(config.run_dir, first)) as log:
        files = SearchFiles(config, networks, step, settings, log)
        on_update(first)
        result = run_training(
            step,
            n_steps=config.steps,
            first=first,
            callbacks=[
                lambda index, scalars: on_update(1),
                Every(config.log_every, files.log_scalars, config.steps),
                Every(config.sample_every, files.sample, config.steps),
                Every(config.derive_every, files.derive, config.steps),
                Every(config.save_every, files.save, config.steps),
                EveryMinutes(config.save_every_minutes, files.save),
            ],
            on_interrupt=files.save,
        )
        if result.status == "finished":
            files.finish()
    return result
