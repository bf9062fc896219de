"""The searches that a run directory has finished, so that one with more rounds goes on from them.

A search plans with all the rounds that it may use, so one that is given more of them from its start
recovers other plans. One that has ended repeats itself from the journal, which takes no time, and
is then given more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ard.session.config import SearchConfig
from nas_gan.errors import UnreadableError
from nas_gan.files import write_json
from nas_gan.reading import Fields, read_json
from nas_gan.settings import chosen_settings

FILE = "searches.json"
# Most searches that are remembered, the newest ones.
MOST = 64
# What decides, with their scores, which plans a search tries.
PLANNING = (
    *("fid_budget", "quality_budget", "target", "objective", "weights", "latency_table"),
    *("latency_batch", "methods", "fractions", "precision", "rank_multiple", "activations"),
    *("anchors", "max_rounds", "trials_at_once"),
)


class FinishedSearches:
    """The finished searches of a run directory that differ from this one in `max_trials` at most.

    Args:
        run_dir: the directory.
        config: the settings of the search under one budget.
        scores: what its scores depend on, as `fingerprint` says it.
    """

    def __init__(self, run_dir: Path, config: SearchConfig, scores: Mapping[str, Any]) -> None:
        self.path, self.most = run_dir / FILE, config.max_trials
        settings = {**chosen_settings(config, PLANNING), **scores}
        text = json.dumps(settings, sort_keys=True)
        self.search = hashlib.sha256(text.encode()).hexdigest()

    def earlier(self) -> tuple[int, ...]:
        """The rounds that the search was allowed before, in the order in which it was.

        Raises:
            NasGanError: the record in the directory is damaged.
        """
        known = [rounds for search, rounds in self._read() if search == self.search]
        for rounds in known:
            if rounds[-1] == self.most:
                return rounds[:-1]
        fewer = [rounds for rounds in known if rounds[-1] < self.most]
        return max(fewer, key=lambda rounds: rounds[-1], default=())

    def add(self) -> None:
        """Record that the search has finished."""
        added = (self.search, (*self.earlier(), self.most))
        entries = [entry for entry in self._read() if entry != added]
        listed = [
            {"search": search, "max_trials": list(rounds)}
            for search, rounds in [*entries, added][-MOST:]
        ]
        write_json(self.path, {"searches": listed})

    def _read(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Digests of searches, and the rounds that each was allowed one after the other."""
        if not self.path.exists():
            return
        for entry in Fields(read_json(self.path), str(self.path)).tables("searches"):
            rounds = entry.sizes("max_trials")
            if not rounds or not all(isinstance(n, int) for n in rounds):
                raise UnreadableError(f"{entry.where}: max_trials are whole numbers from 1 on")
            yield entry.text("search"), tuple(n for n in rounds if isinstance(n, int))
