"""What `ard` raises on bad input. Command lines print these as one line and exit with 1."""

from nas_gan.errors import NasGanError


class ArdError(NasGanError):
    """Base of every error that `ard` raises on purpose."""


class RankError(ArdError, ValueError):
    """A rank does not fit a weight, or no factorization of that rank could be computed."""


class PlanError(ArdError, ValueError):
    """A plan cannot be read, or does not fit the generator."""


class BudgetError(ArdError, ValueError):
    """A budget is negative or not a number."""


class JournalError(ArdError, RuntimeError):
    """A journal belongs to another run, or its lines cannot be read."""


class NothingToFactorizeError(ArdError, ValueError):
    """No layer of the generator can be made smaller by a factorization."""


class NonFiniteError(ArdError, ArithmeticError):
    """A weight, an activation or an image is NaN or infinite."""


class TableError(ArdError, ValueError):
    """A sensitivity table lacks a column, repeats a row, or holds a value that is not finite."""


class DeliveryError(ArdError, RuntimeError):
    """Exporting or timing a finished run failed."""


class LatencyError(ArdError, ValueError):
    """A latency table lacks a requested time, or names a layer that does not exist."""
