"""What `nas_gan` raises on bad input. Command lines print these as one line and exit with 1."""


class NasGanError(Exception):
    """Base of every error that `nas_gan` raises on purpose."""


class InvalidValueError(NasGanError, ValueError):
    """An argument, a configuration key or a loss input has a value that cannot be used."""


class CheckpointError(NasGanError, ValueError):
    """A file is not a checkpoint, or does not fit the network that it should fill."""


class MissingDataError(NasGanError, FileNotFoundError):
    """A data set, reference statistics or pretrained weights are not where they were looked for."""


class DivergedError(NasGanError, ArithmeticError):
    """Training or sampling produced a NaN or an infinity."""
