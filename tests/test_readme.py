"""What README says can be typed, can be typed."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")


async def test_the_program_runs() -> None:
    program = re.search(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert program
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", program[1], cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert re.fullmatch(rb"sent: \d+\n", out)


def test_the_two_commands_are_one_line_each() -> None:
    for heading in ("Try it", "Test it"):
        block = re.search(rf"^## {heading}\n.*?^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
        assert block
        assert block[1].count("\n") == 1


def test_every_file_it_links_to_is_there() -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
