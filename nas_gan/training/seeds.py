"""The random streams of a run, each with a seed of its own."""

from __future__ import annotations

from enum import IntEnum


class Stream(IntEnum):
    """What is added to the seed of a run for each of its streams.

    No two streams of one run may be equal, and none may change: a run is resumed to the bit. The
    order of the images is drawn from the seed itself.
    """

    GENERATOR = 0  # its initial weights
    DISCRIMINATOR = 1  # its initial weights
    UPDATES = 2  # latents and labels of an update; in a search also which operations take part
    GRID = 3  # latents of the sample grids
    EVALUATION = 4  # latents of what is measured along the way
    GENERATOR_UPDATES = 5  # latents of the generator's updates, if its batch is larger
    SKIPPING = 6  # which updates of the discriminator are left out
    STATISTICS = 7  # latents for the batch statistics of a generator
    FINALISTS = 8  # which architectures a search trains at its end
