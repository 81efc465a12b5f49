"""Runs an agent to its end, in a process that is killed again and again and goes on from the framework's saved state.

``python -m tests.agents.driver FRAMEWORK FOLDER URL SEED KILLS KEYS-AS-JSON``

FRAMEWORK is a module of this package with a coroutine function ``run(desk, folder)``, which loads the saved state, goes
on from there, and returns when all is done. At the end, what the model was told is written to ``told.json``.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.drainer import TIMEOUT, table
from twdm_async import Client, Credentials, Desk, SQLiteQuotaStore
from twdm_async.outbox import Outbox

if TYPE_CHECKING:
    from twdm_async.desk import Receipt

CALLS: Final = 100
BATCH: Final = 10  # calls that a model makes at once
SETTLE_AFTER: Final = 2.0  # seconds


def arguments(number: int) -> dict[str, Any]:
    """What the model calls the tool with."""
    return {
        "who": ("billing", "support")[number % 2],
        "recipient": str(100 + number % 7),
        "text": f"message {number}",
        "choices": ["Yes", "No"] if number % 5 == 0 else [],
    }


def is_refused(number: int) -> bool:
    """Whether the person who is asked refuses this call."""
    return number % 6 == 0


class DeadlyDesk(Desk):
    """A desk that repeats calls at random, and kills its process at random as long as there are kills left."""

    moments: float = 0.0  # until the process dies

    async def say(self, *args: Any, **options: Any) -> Receipt:
        self._live_or_die()
        receipt = await super().say(*args, **options)
        if random.random() < 0.5:
            self._live_or_die()
            receipt, again = await asyncio.gather(super().say(*args, **options), super().say(*args, **options))
            assert receipt.key == again.key
        self._live_or_die()
        return receipt

    def _live_or_die(self) -> None:
        self.moments -= 1
        if self.moments < 0:
            os.kill(os.getpid(), signal.SIGKILL)


async def attempt(framework: Any, folder: Path, url: str, keys: str, moments: float) -> None:
    """Open everything, and run the agent."""
    async with (
        SQLiteQuotaStore(folder / "outbox.db") as store,
        Client(
            Credentials(**json.loads(keys)), api_url=url, quotas=table(), quota_store=store, timeout=TIMEOUT
        ) as client,
        Outbox(client, folder / "outbox.db", settle_after=SETTLE_AFTER) as outbox,
        outbox.running(),
    ):
        profiles = json.loads((folder / "profiles.json").read_text())
        desk = DeadlyDesk(client, outbox, profiles, limit=None, wait=60.0, hold=getattr(framework, "HOLD", False))
        desk.moments = moments
        told = await framework.run(desk, folder)
        (folder / "told.json").write_text(json.dumps(told))


def main(name: str, folder: str, url: str, seed: str, kills: str, keys: str) -> None:
    framework, left = importlib.import_module(f"tests.agents.{name}"), int(kills)
    random.seed(int(seed))
    while True:
        moments = random.randint(1, 25) if left else float("inf")
        child = os.fork()
        if not child:
            random.seed(f"{seed} {left}")
            asyncio.run(attempt(framework, Path(folder), url, keys, moments))
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != -signal.SIGKILL:
            sys.exit(code or (f"{left} kills are left" if left else 0))
        left -= 1


if __name__ == "__main__":
    main(*sys.argv[1:])
