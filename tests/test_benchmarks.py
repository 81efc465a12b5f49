"""The benchmarks run, and what they write is a page. What they measure is no test's business."""

from __future__ import annotations

from benchmarks import contenders, report, send
from benchmarks.server import answering


async def test_each_client_sends() -> None:
    clients = contenders.installed()
    assert {send.BARE, send.OURS} < set(clients)
    with answering() as url:
        taken = await send.in_turns(clients, url, at_once=4, rounds=1, sends=4)
    assert set(taken) == set(clients)
    assert all(seconds > 0 for (seconds,) in taken.values())


def test_a_page_has_a_table_for_each_benchmark() -> None:
    figure = report.Figure(
        "asyncio, 64 at once: twdm_async", f"5 µs: {report.ratio([2.0, 3.0, 9.0], [1.0, 1.0, 1.0])} x"
    )
    text = report.page({"send": [figure]})
    assert "| asyncio, 64 at once: twdm_async | 5 µs: 3.00 (2.00 to 9.00) x |" in text
    assert "## A send beside other clients" in text
