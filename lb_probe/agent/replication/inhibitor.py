"""Keeps systemd from shutting the machine down while a sync runs, where it can (R12).

`systemd-inhibit` holds a block lock of logind as long as its child lives; that is a `cat`, which
ends when we close its input or are no more. Without systemd, or without the right to block, nothing
is held and the reason is shown. `shutdown -f`, a power cut and `systemctl stop` of the agent itself
are not kept back by it, and neither is the other node.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator

PROGRAM = "systemd-inhibit"
_TAKEN_S = 5.0
_SAID = b"held"


@contextlib.asynccontextmanager
async def inhibited(why: str, program: str = PROGRAM) -> AsyncIterator[str]:
    """Hold the lock while the block lasts; yield why there is none, or an empty text.

    Args:
        why: Shown by `systemd-inhibit --list`.
    """
    path = shutil.which(program)
    if path is None:
        yield f"{program} is not installed"
        return
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LB_PROBE_")}
    try:
        process = await asyncio.create_subprocess_exec(
            path, "--what=shutdown:sleep", "--mode=block", "--who=lb-probe", f"--why={why}",
            "/bin/sh", "-c", f"echo {_SAID.decode()}; exec cat",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        yield f"{path}: {error.strerror or error}"
        return
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield await _why_not(process.stdout)
    finally:
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TAKEN_S):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _why_not(out: asyncio.StreamReader) -> str:
    try:
        async with asyncio.timeout(_TAKEN_S):
            line = await out.readline()
    except (TimeoutError, ValueError):
        return f"{PROGRAM} did not answer within {_TAKEN_S:g}s"
    said = line.decode("utf-8", "replace").strip()
    if line.strip() == _SAID:
        return ""
    return "".join(c if c.isprintable() else "?" for c in said[:200]) or f"{PROGRAM} ended at once"
