"""The exception that ends a command which has failed."""

from __future__ import annotations


class Failure(Exception):
    """The command failed.

    Args:
        message: the error in one line, to be printed.
        exit_code: the exit code, one of those that ``twdm --help`` lists.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
