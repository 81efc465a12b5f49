"""Errors carry facts, travel between processes, and keep secrets."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import fields

import twdm_async
from twdm_async import errors

NOW = datetime(2027, 1, 1, tzinfo=UTC)
FACTS: dict[str, Any] = {
    "endpoint": "direct_messages.send",
    "parameter": "text",
    "problem": "something",
    "scope": "user",
    "wait": 12.5,
    "retry_at": NOW,
    "limit": 15.0,
    "per": 900.0,
    "waiting": 1000,
    "store": "sqlite:///quota.db",
    "sent_at": NOW,
    "ended_at": NOW,
    "custom_profile_id": "7",
    "fingerprint": "0123abcd",
    "media_id": "99",
    "path": "/var/lib/app/outbox.db",
    "host": "https://api.twitter.com",
    "address": "postgresql://127.0.0.1/app",
    "is_unsure": True,
    "recipient_id": "5",
    "status": 403,
    "codes": (349, 150),
    "messages": ("You cannot send messages to this user.",),
    "delivered": "unknown",
    "safe_to_retry": True,
}
CLASSES = [getattr(errors, name) for name in errors.__all__]


def make(cls: type[errors.TwdmError]) -> errors.TwdmError:
    return cls(**{field.name: FACTS[field.name] for field in fields(cls)})


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_every_error_survives_copying_and_pickling(cls: type[errors.TwdmError], travel: Any) -> None:
    error = make(cls)
    twin = travel(error)
    assert type(twin) is cls
    assert str(twin) == str(error)
    assert repr(twin) == repr(error)
    assert {f.name: getattr(twin, f.name) for f in fields(cls)} == {f.name: FACTS[f.name] for f in fields(cls)}


def test_errors_are_what_callers_expect_them_to_be() -> None:
    assert issubclass(twdm_async.InvalidInput, ValueError)
    assert issubclass(twdm_async.DeliveryUnknown, RuntimeError)
    assert issubclass(twdm_async.ClientClosed, RuntimeError)
    for cls in (twdm_async.NotAllowlisted, twdm_async.RecipientUnreachable, twdm_async.LooksAutomated):
        assert issubclass(cls, twdm_async.Forbidden)
    assert all(issubclass(cls, twdm_async.TwdmError) for cls in CLASSES)


def test_messages_say_what_to_do() -> None:
    too_long = str(make(twdm_async.QuotaWaitTooLong))
    assert "15 in 900 s" in too_long
    assert "2027-01-01T00:00:00+00:00" in too_long
    assert "allow-list" in str(make(twdm_async.NotAllowlisted))
    assert "HTTP 403, code 349, 150: You cannot send" in str(make(twdm_async.RecipientUnreachable))


def test_delivery_is_told_by_default() -> None:
    assert twdm_async.InvalidInput(parameter="a", problem="b").delivered == "no"
    unknown = twdm_async.DeliveryUnknown(endpoint="e", problem="p", sent_at=NOW)
    assert (unknown.delivered, unknown.safe_to_retry) == ("unknown", False)
    assert twdm_async.ConnectFailed(endpoint="e", problem="p").safe_to_retry
