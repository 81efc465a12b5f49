"""A process that opens one inbox again and again, takes over what is in nobody's hands, and ends, well or badly.

``python -m tests.starter FILE STARTS SEED``: ends with 1 if an event was ever in the hands of two, or if it lived without
a lock.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

from twdm_async import Inbox
from twdm_async.resources.inbox import Received
from twdm_async.storage.sqlite import StateFile

_EXITING = 4  # PF_EXITING: its files are being closed, so its locks may be free already
KEPT = 30
"""Events that go from hand to hand."""


async def live(path: Path, chance: random.Random) -> None:
    """One life: each event it has in hand is marked with its number, so that another one who has it is noticed."""
    async with Inbox(path) as inbox:
        new = [Received("5", str(number), "{}") for number in chance.sample(range(KEPT), 3)]
        mine = [*await inbox.keep(new), *await inbox.take_over()]
        assert isinstance(inbox._storage, StateFile)
        owner = inbox._storage._owner
        assert owner._lock.is_in_place(), "without a lock"
        marks = [path.with_name(f"event {event.id}") for event in mine]
        for mark in marks:
            mark_as_mine(mark)
        owner.sweep()
        await asyncio.sleep(chance.choice([0.0, 0.001, 0.01]))
        assert owner._lock.is_in_place(), "without a lock"
        if chance.random() < 0.3:
            os._exit(0)
        for mark in marks:
            mark.unlink()


def mark_as_mine(mark: Path) -> None:
    try:
        descriptor = os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        owner = int(mark.read_text() or os.getppid())
        assert not is_alive(owner), f"{mark.name} is in the hands of {owner} and {os.getpid()}"
        mark.write_text(str(os.getpid()))
        return
    os.write(descriptor, str(os.getpid()).encode())
    os.close(descriptor)


def is_alive(process: int) -> bool:
    try:
        state, *_, flags = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:7]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"} and not int(flags) & _EXITING


def main(path: str, starts: str, seed: str) -> int:
    for number in range(int(starts)):
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(live(Path(path), random.Random(f"{seed} {number}")))
            except BaseException as error:  # noqa: BLE001 - whatever it is
                print(repr(error), file=sys.stderr, flush=True)  # noqa: T201 - for whoever looks why it failed
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
