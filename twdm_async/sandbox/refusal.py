"""The API's error answers."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """An error answer with `status` and ``{"errors": [{"code": ..., "message": ...}]}``. `hint` is not sent; it
    explains the refusal in the sandbox's records.
    """

    def __init__(self, status: int, code: int, message: str, hint: str = "") -> None:
        super().__init__(status, code, message)
        self.status = status
        self.hint = hint
        self.body: dict[str, Any] = {"errors": [{"code": code, "message": message}]}


def invalid(path: str, message: str) -> Refusal:
    """Return the refusal of a field that is wrong: code 214, with the field's path in the JSON."""
    return Refusal(400, 214, f"{path}: {message}")


def not_permitted() -> Refusal:
    """Return the refusal of an account that is not on the allow-list."""
    return Refusal(403, 87, "Client is not permitted to perform this action.")


def no_such_page() -> Refusal:
    """Return the refusal of an address or an object that does not exist."""
    return Refusal(404, 34, "Sorry, that page does not exist.")
