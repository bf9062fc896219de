"""Topics of a command's options: `--help` shows each in a panel of its own.

A configuration is one flat dataclass. The string below a field is the help of its option, and a
`Panel` in its annotation puts the option into that panel:

    dataset: str = "cifar10"
    \"\"\"Name of the data set.\"\"\"
    flip: Annotated[bool, DATA] = False
    \"\"\"Mirror half of the images.\"\"\"

Options without a panel come first; they are those that most people need.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """A topic of options; its panel is headed `TITLE options`."""

    title: str


class Address:
    """In the annotation of a path: it may also be an address, such as s3://bucket/run."""


ADDRESS = Address()

# Those of several commands.
FILES = Panel("file")
DATA = Panel("data")
NETWORK = Panel("network")
GENERATOR = Panel("your own generator")
ACTIVATIONS = Panel("activation")
LOSS = Panel("loss")
OPTIMISER = Panel("optimiser")
EVALUATION = Panel("evaluation")
LOGGING = Panel("logging")
MACHINE = Panel("machine")
WORKERS = Panel("worker")
QUALITY = Panel("quality")
CANDIDATES = Panel("rank candidate")
OBJECTIVE = Panel("objective")
RECOVERY = Panel("recovery")
