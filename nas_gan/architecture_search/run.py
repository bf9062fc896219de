"""A search: built from its settings, resumed if unfinished, kept in its directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

from nas_gan.architecture_search.build import build_step, build_supernets
from nas_gan.architecture_search.config import SearchConfig
from nas_gan.architecture_search.files import SearchFiles, fingerprint
from nas_gan.architecture_search.finalists import Finalist, compare_finalists
from nas_gan.data.images import Images
from nas_gan.errors import InvalidValueError
from nas_gan.files import write_json
from nas_gan.interrupts import held_back, let_through
from nas_gan.settings import plain_settings
from nas_gan.training.distributed import Processes
from nas_gan.training.log import RunLog
from nas_gan.training.loop import Every, EveryMinutes, TrainingResult, run_training
from nas_gan.training.measuring import Measure
from nas_gan.training.state import Position, resume


def search(
    config: SearchConfig,
    images: Images,
    *,
    on_update: Callable[[int], None] = lambda n: None,
    measure: Measure | None = None,
    on_measured: Callable[[], None] = lambda: None,
    on_finalists: Callable[[Sequence[Finalist]], None] = lambda finalists: None,
    processes: Processes | None = None,
) -> TrainingResult:
    """Search what `config` describes, or resume it, and keep the search in its directory.

    A search with finalists ends by training them (`nas_gan.architecture_search.finalists`).

    Args:
        config: every setting of the search.
        images: the data set, in the size of the networks.
        on_update: called with the number of updates finished since its last call.
        measure: scores the derived generator every `eval_every` steps, and finalists. If an FID is
            among its figures, the best genotype is kept.
        on_measured: called when the files hold what was measured.
        on_finalists: called with the finalists, the best one first, when the files hold the best.
        processes: those of the search; only the main one measures and writes. None is this one
            alone.

    Raises:
        InvalidValueError: the settings describe no search, or do not fit the data.
        CheckpointError: the directory holds a search with other settings or data.
        DivergedError: the training of every finalist diverged.
    """
    processes = processes or Processes(device=config.device)
    if config.finalists and processes.count > 1:
        raise InvalidValueError(
            f"are trained by one process, and there are {processes.count}; leave them out, and ask "
            "for them when the search has finished, in one process",
            setting="finalists",
        )
    networks = build_supernets(config)
    step = build_step(config, networks, images, processes)
    settings = fingerprint(config, images)
    start = resume(config.run_dir, settings, step)
    first = start.done
    if not processes.is_main:
        with held_back():  # the main process ends the search, between two steps
            return run_training(step, n_steps=config.steps, first=first)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    write_json(config.run_dir / "config.json", plain_settings(config))
    with closing(RunLog(config.run_dir, first)) as log:
        files = SearchFiles(config, networks, step, settings, log)

        def evaluate(index: int, scalars: Mapping[str, float]) -> None:
            if measure is None:
                return
            try:
                with let_through():  # it can take minutes
                    figures = measure(files.derived())
            except KeyboardInterrupt:
                files.save_at(Position(index + 1, unmeasured=True))
                raise
            files.measured(index, figures)
            on_measured()

        last_callbacks = (
            Every(config.eval_every, evaluate, config.steps),
            Every(config.save_every, files.save, config.steps),
            EveryMinutes(config.save_every_minutes, files.save),
        )
        on_update(first)
        if start.unmeasured:
            with held_back():
                for callback in last_callbacks:
                    callback(first - 1, {})
        result = run_training(
            step,
            n_steps=config.steps,
            first=first,
            callbacks=[
                lambda index, scalars: on_update(1),
                Every(config.log_every, files.log_scalars, config.steps),
                Every(config.sample_every, files.sample, config.steps),
                Every(config.derive_every, files.derive, config.steps),
                *last_callbacks,
            ],
            on_interrupt=files.save,
        )
        if result.status == "finished":
            files.finish()
            if config.finalists and measure is not None:
                finalists = compare_finalists(config, files.finalists(), images, measure, on_update)
                files.keep(finalists[0])
                on_finalists(finalists)
    return result
