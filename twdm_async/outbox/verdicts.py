"""The decision on what becomes of a message of the outbox after an attempt. It is made here alone.

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

*Which messages are poisoned?* A message that fails while others get through is itself the cause. It is tried again
after pauses that double, and it is given up (:attr:`State.FAILED`) when it has failed more often than chance explains:
of the messages that were tried since it was put, some share has failed, so a good message fails `n` times with a
probability of that share to the power of `n`. See :func:`most_tries`.

*When nothing gets through*, no message is to blame: the cause may be the network, or the API. One message at a time is
tried, after ever longer pauses, until one gets through. It is the first message to a recipient who is drawn at random
from those to whom none has failed since the last answer. So a few messages that fail one after the other hold up the
others only for a moment. After an unclear refusal, sending stops when there is nobody else to try, or when messages to
eight others were refused as well.
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

_BY_CHANCE: Final = 1e-5  # a good message is given up with at most this probability
_FEWEST_TRIES, _MOST_TRIES = 3, 8
_LONGEST_BACKOFF: Final = 6 * 3600.0  # seconds
_SPENDS: Final = 5.0  # the factor by which the longest pause is longer if each try spends quota
_SILENCES: Final = 8  # attempts in a row without an answer, after which sending pauses
_ROUNDS: Final = 3  # pauses in a row, after which another unclear refusal stops sending
_MOST_SUSPECTS: Final = 100  # if messages to more people fail, the people are not the cause
_PROBES: Final = 8  # if so many messages to other people fail as well, the people are not the cause


@frozen
class Sent:
    """The message arrived. `message_id` is the API's id, if the reply told it."""

    message_id: str | None


@frozen
class Ended:
    """The message comes into a final state."""

    state: State
    error: str | None = None


@frozen
class Unknown:
    """The message may have arrived."""

    error: str


@frozen
class TryLater:
    """The message did not arrive, and is tried again.

    Args:
        after: seconds until it may be tried again.
        tries: how often it has failed while others got through; if that is too often, it is given up instead.
        error: why it did not arrive, if that is known.
    """

    after: float = 0.0
    tries: int = 0
    error: str | None = None


@frozen
class Stop:
    """The message did not arrive, and the next one would fail for the same reason, so sending stops."""

    error: errors.TwdmError


Verdict = Sent | Ended | Unknown | TryLater | Stop


def most_tries(failed: int, tried: int) -> int:
    """Return how often a message may fail until it is given up.

    Args:
        failed: how many messages have failed, once or more often.
        tried: how many messages were tried.
    """
    share = (failed + 1) / (tried + 10)  # if little is known, one in ten
    tries = _MOST_TRIES if share >= 1 else math.ceil(math.log(_BY_CHANCE) / math.log(share))
    return min(max(tries, _FEWEST_TRIES), _MOST_TRIES)


def backoff(tries: int, settle_after: float) -> float:
    """Return the seconds until a message that has failed `tries` times is tried again."""
    return 0.0 if tries < 2 else min(settle_after * 2.0 ** (tries - 2), _LONGEST_BACKOFF)


class Judge:
    """Decides what becomes of the messages that one process sends, and when it takes up the next one.

    Args:
        settle_after: seconds; the pauses before a failed message is tried again are in proportion to it.
        longest_pause: seconds for which sending pauses, at most, while the API cannot be reached.
        jitter: returns a random number from 0 up to 1.
    """

    def __init__(self, settle_after: float, longest_pause: float, jitter: Callable[[], float]) -> None:
        self._settle_after = settle_after
        self._longest_pause = longest_pause
        self._jitter = jitter
        self._answers = 0  # answers of the API so far
        self._failures: dict[int, tuple[int, int]] = {}  # by row: how often it failed, and `_answers` at the last time
        self._in_a_row: list[int] = []  # rows of attempts that failed since the last answer, and are not to blame
        self._suspects: set[str] = set()  # recipients of attempts that failed since the last answer
        self._probes = 0  # attempts since the last answer that failed although they were to other recipients
        self._silences = 0  # attempts since the last answer that got none
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
        """Decide what becomes of a message after an attempt.

        Args:
            row: the number of its row.
            recipient_id: the recipient's user id.
            tries: how often it has failed before, while others got through.
            outcome: the outcome of the attempt.
            now: seconds, by the monotonic clock.
            had_others: whether there were `suspects` when it was taken up, and its recipient was none of them.
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
        """Forget which messages have failed before."""
        self._failures.clear()

    def begin(self) -> None:
        """End the current pause, so that a message is tried at once: a new run begins, and the cause may be mended."""
        self._resume_at = -math.inf

    def wait(self, now: float) -> float:
        """Return the seconds until the next message may be taken up."""
        return max(0.0, self._resume_at - now)

    @property
    def suspects(self) -> frozenset[str]:
        """The recipients to whom messages failed since the last answer; messages to others are tried first. Empty if
        there are too many of them.
        """
        return frozenset(self._suspects) if len(self._suspects) <= _MOST_SUSPECTS else frozenset()

    @property
    def is_troubled(self) -> bool:
        """Whether nothing has got through lately, so that only one message should be tried at a time."""
        return self._rounds > 0

    def _failed(self, row: int, tries: int, error: errors.TwdmError, now: float, *, had_others: bool) -> Verdict:
        count, answers = self._failures.get(row, (0, self._answers))
        self._failures[row] = (count + 1, self._answers)
        is_intermediary = isinstance(error, errors.ResponseError) and error.subject == "intermediary"
        is_refused_alone = set(self._in_a_row) == {row} and len(self._in_a_row) > _ROUNDS and not is_intermediary
        has_failed_alone = tries > 0 and not self._in_a_row
        if self._answers > answers or has_failed_alone or (is_refused_alone and self._answers):
            tries += 1 if tries else 2  # others got through since its first failure, so that one counts, too
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
            return  # this attempt began before the pause
        pause = min(2.0**self._rounds, longest * self._longest_pause)
        self._rounds += 1
        self._resume_at = now + pause * (0.5 + 0.5 * self._jitter())
