"""Every failure that a user can cause or meet, one class an exit code.

Anything else that escapes is a bug in pointcnn (exit code 1). `cli/` alone turns these into output and an exit status.
"""


class PointcnnError(Exception):
    """A failure with a remedy: `message` says what, where and why; `hint` says what to try next."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(PointcnnError):
    """Arguments that do not go together."""

    exit_code = 2


class ConfigError(PointcnnError):
    """A config that is missing, cannot be parsed, or breaks the schema."""

    exit_code = 4


class MissingDependencyError(PointcnnError):
    """An optional package, or the device asked for, is not there."""

    exit_code = 5


class DataError(PointcnnError):
    """A data file that is missing or malformed, or data that do not fit the run."""

    exit_code = 6


class TrainingError(PointcnnError):
    """Training cannot go on: a loss that is not finite, or memory that does not suffice."""

    exit_code = 7


class RunError(PointcnnError):
    """A run directory or checkpoint that is missing, damaged or does not match."""

    exit_code = 8


class OutputError(PointcnnError):
    """Output that cannot be written: it exists already, is in use, is not permitted, or the disk is full."""

    exit_code = 9


class Interrupted(PointcnnError):
    """A signal asked the process to stop, and what was whole has been saved."""

    def __init__(self, signal_number: int, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signal_number
