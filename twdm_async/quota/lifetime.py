"""How long a request can take. Only this module derives durations from the timeout of an attempt."""

from __future__ import annotations

from typing import Final

from attrs import frozen

LONGEST_UNDER_WAY: Final = 3600.0
"""Seconds. No request of any client is in flight for longer, including retransmissions by the network."""


@frozen
class RequestLifetime:
    """The durations of a request in seconds, counted from the moment in which it gets its slot.

    Args:
        to_send: until its first byte leaves. A request that is later than that does not leave: the last check is made
            where the first byte would go out, by a clock that runs while the machine sleeps.
        lease: until its outcome is known, or the server can no longer count it. A slot that nobody settles counts as if
            its outcome had been seen then.
        grace: not from the slot, but from the moment in which waiting for a reply ended, until the server can no longer
            count the request.
        whole: the lease, and another timeout for a process that reacts late. What has not happened by then never will.
    """

    to_send: float
    lease: float
    grace: float
    whole: float

    @classmethod
    def from_timeout(cls, timeout: float) -> RequestLifetime:
        """Derive the durations from `timeout`, the seconds that an attempt may take once it is connected.

        A request waits for at most one `timeout` until it may use a connection, and for at most another one until that
        is connected, so its first byte leaves within two. Within a third, the reply comes or waiting for it ends; the
        task that waits reports this within a fourth. If no reply was seen, a request that was still on its way when
        waiting ended arrives within two timeouts, or is lost: that is the grace.
        """
        return cls(to_send=2 * timeout, lease=4 * timeout, grace=2 * timeout, whole=5 * timeout)
