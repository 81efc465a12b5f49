"""The delivery table, cell by cell."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from twdm_async import errors
from twdm_async.endpoints import ENDPOINTS, Host, Safety
from twdm_async.models import CustomProfile
from twdm_async.transport import wire
from twdm_async.transport.retry import BEGINNING, Failed, Retry, Story, decide
from twdm_async.transport.wire import Fault, Reply

NOW = datetime(2027, 1, 1, tzinfo=UTC)
HOSTS = {Host.API: "https://api.twitter.com", Host.UPLOAD: "https://upload.twitter.com"}
ONE_OF_EACH = {
    Safety.SEND_ONCE: "direct_messages.send",
    Safety.IDEMPOTENT: "account.update_profile",
    Safety.READ: "custom_profiles.get",
}
SAFE_TO_REPEAT = [Safety.IDEMPOTENT, Safety.READ]


def decision(safety: Safety, outcome: Reply | Fault, story: Story = BEGINNING) -> Retry | errors.TwdmError:
    request = wire.encode(ENDPOINTS[ONE_OF_EACH[safety]], HOSTS, {}, path_id="1", message=wire.Message("5"))
    error = None
    if isinstance(outcome, Reply):
        with pytest.raises(errors.TwdmError) as caught:
            wire.read(request.endpoint, outcome, CustomProfile)
        error = caught.value
    decided = decide(request, outcome, error, story, sent_at=NOW, jitter=0.5)
    return decided.error if isinstance(decided, Failed) else decided


@pytest.mark.parametrize("safety", Safety)
def test_nothing_left_so_anything_may_be_tried_again(safety: Safety) -> None:
    fault = Fault("no connection", sent=False)
    assert decision(safety, fault) == Retry(Story(failures=1), 0.25)
    assert decision(safety, fault, Story(failures=1)) == Retry(Story(failures=2), 0.5)
    failed = decision(safety, fault, Story(failures=2))
    assert isinstance(failed, errors.ConnectFailed)
    assert (failed.delivered, failed.safe_to_retry) == ("no", True)


@pytest.mark.parametrize("safety", Safety)
def test_fault_3_what_lasts_is_not_tried_again(safety: Safety) -> None:
    failed = decision(safety, Fault("no TLS", sent=False, lasting=True))
    assert isinstance(failed, errors.ConnectFailed)
    assert not failed.safe_to_retry


LEFT_WITHOUT_ANSWER = [
    Fault("silence", sent=True),
    Reply(500, {}, b""),
    Reply(503, {}, b"<html>"),
    Reply(200, {}, b""),
    Reply(200, {}, b"<html>"),
    Reply(200, {}, b'{"event":'),
    Reply(200, {}, b'{"errors":[{"code":131,"message":"Internal error"}]}'),
    Reply(200, {}, b'{"errors":["something"]}'),
    Reply(408, {}, b"<html>"),
    Reply(499, {}, b""),
]


@pytest.mark.parametrize("outcome", LEFT_WITHOUT_ANSWER)
def test_a_send_that_left_without_answer_is_unknown_and_never_sent_again(outcome: Reply | Fault) -> None:
    unknown = decision(Safety.SEND_ONCE, outcome)
    assert isinstance(unknown, errors.DeliveryUnknown)
    assert (unknown.delivered, unknown.safe_to_retry) == ("unknown", False)
    assert (unknown.sent_at, unknown.recipient_id) == (NOW, "5")


@pytest.mark.parametrize("outcome", LEFT_WITHOUT_ANSWER)
@pytest.mark.parametrize("safety", SAFE_TO_REPEAT)
def test_what_may_be_repeated_is_repeated(safety: Safety, outcome: Reply | Fault) -> None:
    assert decision(safety, outcome) == Retry(Story(failures=1, left=True), 0.25)
    given_up = decision(safety, outcome, Story(failures=2))
    assert isinstance(given_up, (errors.ConnectFailed, errors.ServerError, errors.MalformedResponse, errors.BadRequest))
    assert given_up.safe_to_retry or isinstance(given_up, errors.BadRequest)
    assert given_up.delivered == ("no" if safety is Safety.READ else "unknown")


REFUSED = Reply(403, {}, b'{"errors":[{"code":93,"message":"no"}]}')


@pytest.mark.parametrize(
    "last", [Fault("no connection", sent=False), Fault("no TLS", sent=False, lasting=True), REFUSED]
)
def test_an_attempt_that_left_before_is_not_forgotten(last: Reply | Fault) -> None:
    story = Story(failures=2, left=True)
    for safety, delivered in ((Safety.IDEMPOTENT, "unknown"), (Safety.READ, "no")):
        error = decision(safety, last, story)
        assert isinstance(error, errors.TwdmError)
        assert error.delivered == delivered


@pytest.mark.parametrize("status", [420, 429])
@pytest.mark.parametrize("safety", Safety)
@pytest.mark.parametrize("story", [BEGINNING, Story(failures=2, left=True)])
def test_a_spent_quota_is_waited_for_and_is_no_failure(safety: Safety, status: int, story: Story) -> None:
    again = decision(safety, Reply(status, {}, b""), story)
    assert isinstance(again, Retry)
    assert (again.after, again.story.failures, again.story.left) == (0.0, story.failures, story.left)
    assert again.story.refusal is not None


CLOCK_REFUSED = b'{"errors":[{"code":135,"message":"Timestamp out of bounds."}]}'
DATE = {"Date": "Fri, 15 Jan 2027 08:00:00 GMT"}
NOW_DATE = {"Date": format_datetime(NOW, usegmt=True)}


@pytest.mark.parametrize("safety", Safety)
def test_fault_34_the_server_s_clock_is_followed_once(safety: Safety) -> None:
    followed = Story(failures=1, resynchronised=1)
    assert decision(safety, Reply(401, DATE, CLOCK_REFUSED)) == Retry(followed, server_time=1_800_000_000.0)
    assert isinstance(decision(safety, Reply(401, NOW_DATE, CLOCK_REFUSED), followed), errors.Unauthorized)
    assert isinstance(decision(safety, Reply(401, {}, CLOCK_REFUSED)), errors.Unauthorized)


@pytest.mark.parametrize("safety", Safety)
def test_fault_34_a_clock_that_is_set_during_a_call_is_followed_again(safety: Safety) -> None:
    refused, followed = Reply(401, DATE, CLOCK_REFUSED), Story(failures=1, resynchronised=1)
    again = decision(safety, refused, followed)
    assert again == Retry(Story(failures=2, resynchronised=2), server_time=1_800_000_000.0)
    assert isinstance(decision(safety, refused, Story(failures=3, resynchronised=3)), errors.Unauthorized)


@pytest.mark.parametrize("safety", Safety)
@pytest.mark.parametrize(
    ("status", "code", "cls"),
    [(400, 214, errors.BadRequest), (401, 32, errors.Unauthorized), (401, 89, errors.Unauthorized),
     (403, 349, errors.RecipientUnreachable), (404, 34, errors.NotFound), (302, 0, errors.ResponseError),
     (408, 44, errors.BadRequest)],
)  # fmt: skip
def test_a_refusal_is_final(safety: Safety, status: int, code: int, cls: type[errors.ResponseError]) -> None:
    body = b'{"errors":[{"code":%d,"message":"no"}]}' % code
    refused = decision(safety, Reply(status, {}, body))
    assert type(refused) is cls
    assert refused.delivered == "no"
