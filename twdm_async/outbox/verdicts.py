"""What becomes of a message of the outbox after an attempt: the one place that decides it.

==========================================  ==========================================================================
what the attempt ended in                   the message
==========================================  ==========================================================================
an answer of the API                        sent
a refusal about this message                rejected; the others go on
a refusal about the account                 stays; sending stops, with the reason
a refusal that is unclear                   is tried again after others; if these are refused, too, sending stops
an answer of an intermediary                is tried again after others; if none gets through, all wait, ever longer
no answer                                   unknown, until the list tells; if many in a row have none, all wait
no connection                               stays; all wait, ever longer
no quota before it expires                  expired
==========================================  ==========================================================================

*Which messages are poisoned?* One that fails while others get through is to blame for it. It is tried again after
pauses that double, and it is given up (:attr:`State.FAILED`) when it has failed more often than chance explains: of the
messages that were tried since it was put, some part has failed, so a good one fails `n` times with that probability to
the power of `n`. See :func:`most_tries`.

*When nothing gets through*, no message is to blame: it may be the network, or the API. One message at a time is tried,
after ever longer pauses, until one gets through. It is the first message to somebody to whom none has failed since the
last answer, drawn at random. So some messages that fail side by side hold up the others for a moment only. After an
unclear refusal, sending stops when there is nobody else to try, or when eight others were refused as well.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, assert_never

from attrs import frozen

from twdm_async import errors
from twdm_async.outbox.entry import State
from twdm_async.transport import retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from twdm_async.models.direct_messages import DirectMessage

_BY_CHANCE: Final = 1e-5  # a good message is given up with this probability, at the most
_FEWEST_TRIES, _MOST_TRIES = 3, 8
_LONGEST_BACKOFF: Final = 6 * 3600.0  # seconds
_SPENDS: Final = 5.0  # times as long is a pause at the most if each try spends quota
_SILENCES: Final = 8  # attempts in a row without an answer
_ROUNDS: Final = 3  # pauses in a row after which an unclear refusal came again
_MOST_SUSPECTS: Final = 100  # if messages to more people fail, it is not about the people
_PROBES: Final = 8  # messages to others that failed as well, after which it is not about the people


@frozen
class Sent:
    """It arrived. `message_id` is the API's id, if it told."""

    message_id: str | None


@frozen
class Ended:
    """Nothing more will be done about it."""

    state: State
    error: str | None = None


@frozen
class Unknown:
    """It may have arrived."""

    error: str


@frozen
class TryLater:
    """It did not arrive, and is tried again.

    Args:
        after: seconds.
        tries: how often it has failed; if that is too often, it is given up instead.
        error: why it did not arrive, if there is something to say.
    """

    after: float = 0.0
    tries: int = 0
    error: str | None = None


@frozen
class Stop:
    """It did not arrive, and neither would the next one."""

    error: errors.TwdmError


Verdict = Sent | Ended | Unknown | TryLater | Stop


def most_tries(failed: int, tried: int) -> int:
    """How often a message may fail until it is given up.

    Args:
        failed: how many messages have failed, once or more often.
        tried: how many messages were tried.
    """
    share = (failed + 1) / (tried + 10)  # with little known, one in ten
    tries = _MOST_TRIES if share >= 1 else math.ceil(math.log(_BY_CHANCE) / math.log(share))
    return min(max(tries, _FEWEST_TRIES), _MOST_TRIES)


def backoff(tries: int, settle_after: float) -> float:
    """Seconds until a message is tried again that has failed so often."""
    return 0.0 if tries < 2 else min(settle_after * 2.0 ** (tries - 2), _LONGEST_BACKOFF)


class Judge:
    """Decides over the messages that one process sends, and when it takes up the next.

    Args:
        settle_after: seconds; the measure of all pauses after a message failed.
        longest_pause: seconds that nothing is sent at the most while nothing can be reached.
        jitter: a random number from 0 up to 1.
    """

    def __init__(self, settle_after: float, longest_pause: float, jitter: Callable[[], float]) -> None:
        self._settle_after = settle_after
        self._longest_pause = longest_pause
        self._jitter = jitter
        self._answers = 0  # of the API
        self._failures: dict[int, tuple[int, int]] = {}  # how often a row failed, and `_answers` at the last time
        self._in_a_row: list[int] = []  # rows of attempts that failed since the last answer, and are not to blame
        self._suspects: set[str] = set()  # to whom attempts failed since the last answer
        self._probes = 0  # attempts since then that failed as well, although they were to others
        self._silences = 0  # attempts since the last answer to which there was none
        self._rounds = 0  # pauses since the last answer
        self._resume_at = -math.inf  # by the monotonic clock

    def decide(
        self,
        row: int,
        recipient_id: str,
        tries: int,
        outcome: retry.Outcome[DirectMessage],
        now: float,
        *,
        had_others: bool = False,
    ) -> Verdict:
        """What becomes of a message.

        Args:
            row: its number.
            recipient_id: whom it is for.
            tries: how often it has failed before, while others got through.
            outcome: of its attempt.
            now: seconds, by the monotonic clock.
            had_others: whether it was taken up while there were messages to people to whom none has failed lately.
        """
        match outcome:
            case retry.Answered(answer):
                self._answered(row)
                return Sent(answer.id)
            case retry.Retry():
                return TryLater(tries=tries)
            case retry.Failed(error):
                pass
            case _:
                assert_never(outcome)
        match error:
            case errors.DeliveryUnknown():
                self._silences += 1
                self._suspects.add(recipient_id)
                if self._silences >= _SILENCES:
                    self._pause(now, _SPENDS)
                return Unknown(str(error))
            case errors.QuotaWaitTooLong() | errors.RateLimited():
                return Ended(State.EXPIRED, "its quota is free too late")
            case errors.ResponseError(subject="message"):
                self._answered(row)
                return Ended(State.REJECTED, str(error))
            case errors.ResponseError(subject="unclear" | "intermediary") | errors.InternalError():
                self._suspects.add(recipient_id)
                return self._failed(row, tries, error, now, had_others=had_others)
            case errors.QuotaQueueFull() | errors.ConnectFailed(safe_to_retry=True):
                self._pause(now, 1.0)
                return TryLater(tries=tries, error=str(error))
            case _:
                return Stop(error)

    def forget(self) -> None:
        """Blame nobody for what failed before."""
        self._failures.clear()

    def begin(self) -> None:
        """Try one message at once: somebody lets them be sent again, so whatever held them up may be mended."""
        self._resume_at = -math.inf

    def wait(self, now: float) -> float:
        """Seconds until the next message may be taken up."""
        return max(0.0, self._resume_at - now)

    @property
    def suspects(self) -> frozenset[str]:
        """To whom messages failed since the last answer. Messages to others are tried first."""
        return frozenset(self._suspects) if len(self._suspects) <= _MOST_SUSPECTS else frozenset()

    @property
    def is_troubled(self) -> bool:
        """Whether it is not known if anything gets through, so that only one message should be tried at a time."""
        return self._rounds > 0

    def _failed(self, row: int, tries: int, error: errors.TwdmError, now: float, *, had_others: bool) -> Verdict:
        count, answers = self._failures.get(row, (0, self._answers))
        self._failures[row] = (count + 1, self._answers)
        is_intermediary = isinstance(error, errors.ResponseError) and error.subject == "intermediary"
        is_refused_alone = set(self._in_a_row) == {row} and len(self._in_a_row) > _ROUNDS and not is_intermediary
        has_failed_alone = tries > 0 and not self._in_a_row
        if self._answers > answers or has_failed_alone or (is_refused_alone and self._answers):
            tries += 1 if tries else 2  # others got through since its first failure, too
            return TryLater(backoff(tries, self._settle_after) or self._settle_after / 10, tries, str(error))
        self._in_a_row.append(row)
        if len(self._in_a_row) > 1:
            self._pause(now, _SPENDS)
        self._probes += had_others
        is_lasting = self._rounds > _ROUNDS and len(self._in_a_row) > _ROUNDS and not is_intermediary
        if is_lasting and (not had_others or self._probes >= _PROBES):
            return Stop(error)
        return TryLater(min(2.0**count, self._longest_pause), tries, str(error))

    def _answered(self, row: int) -> None:
        self._answers += 1
        self._silences = self._rounds = 0
        self._in_a_row.clear()
        self._suspects.clear()
        self._probes = 0
        self._resume_at = -math.inf
        self._failures.pop(row, None)

    def _pause(self, now: float, longest: float) -> None:
        if now < self._resume_at:
            return  # it was under way with those that are waited for
        pause = min(2.0**self._rounds, longest * self._longest_pause)
        self._rounds += 1
        self._resume_at = now + pause * (0.5 + 0.5 * self._jitter())
