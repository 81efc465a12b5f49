"""How a command ends that has not done what it should."""

from __future__ import annotations


class Failure(Exception):
    """Ends the command.

    Args:
        message: one line for people.
        exit_code: one of those that ``twdm --help`` lists.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
