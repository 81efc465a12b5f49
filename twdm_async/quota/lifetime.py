"""How long a request can take: the one place in which durations are derived from the timeout of an attempt."""

from __future__ import annotations

from typing import Final

from attrs import frozen

LONGEST_UNDER_WAY: Final = 3600.0
"""Seconds. No request of any client is under way for longer, retries of the network included."""


@frozen
class RequestLifetime:
    """How long a request can take, in seconds, from the moment in which it gets its slot.

    Args:
        to_send: until its first byte leaves. Later than that it does not leave: the last check is made where the first
            byte would go out, by a clock that runs while the machine sleeps.
        lease: until its outcome is known, or the server can no longer count it. A slot that nobody settles counts as if
            its outcome had been seen then.
        grace: from the moment in which nobody waits for a reply any longer until the server can no longer count it.
        whole: all of it, with another timeout for a process that notices late. What has not been done by then never
            will be.
    """

    to_send: float
    lease: float
    grace: float
    whole: float

    @classmethod
    def from_timeout(cls, timeout: float) -> RequestLifetime:
        """Derive the durations from the seconds that an attempt may take once it is connected.

        A request waits for at most one `timeout` until it has a place on the wire and for at most another one until it
        is connected, so its first byte leaves within two. From then on the reply comes within one more, or is given up;
        whoever waits for it says so within another one. Where no reply was seen, what was on its way when it was given
        up arrives within two, or is lost: that is the grace.
        """
        return cls(to_send=2 * timeout, lease=4 * timeout, grace=2 * timeout, whole=5 * timeout)
