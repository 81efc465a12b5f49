"""How the API says no."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """Answered with `status` and ``{"errors": [{"code": ..., "message": ...}]}``; `hint` is for people who look on."""

    def __init__(self, status: int, code: int, message: str, hint: str = "") -> None:
        super().__init__(status, code, message)
        self.status = status
        self.hint = hint
        self.body: dict[str, Any] = {"errors": [{"code": code, "message": message}]}


def invalid(path: str, message: str) -> Refusal:
    """What the API says of a field that is wrong: code 214, with the field's path in the JSON."""
    return Refusal(400, 214, f"{path}: {message}")


def not_permitted() -> Refusal:
    """What the API says to an account that is not on the allow-list."""
    return Refusal(403, 87, "Client is not permitted to perform this action.")


def no_such_page() -> Refusal:
    """What the API says of an address or an object that does not exist."""
    return Refusal(404, 34, "Sorry, that page does not exist.")
