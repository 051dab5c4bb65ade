"""The emulator as a process of its own, told what to do on its standard input."""

import asyncio
import os
import ssl
import sys
from pathlib import Path

import aiohttp
from rest_client import OFFLINE, OLD, Rest


async def test_a_process_of_its_own_obeys(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "emulator"),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = [(await process.stdout.readline()).decode().split()[1] for _ in range(3)]
        trusting = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=said[0]))
        async with aiohttp.ClientSession(connector=trusting) as session:
            rest = Rest(session, said[1])
            await rest.login()
            await rest.patch(OLD, OFFLINE)
            process.stdin.write(b"fault busy GET\nnonsense\nfail-over\nshow\n")
            answers = [(await process.stdout.readline()).decode().strip() for _ in range(6)]
            assert (await rest.ask("GET", OLD)).status == 503
    finally:
        process.terminate()
        await process.wait()
    assert answers == [
        "next: busy",
        "found 'nonsense'; use one of the lines of emulator/console.py",
        "active: bigip-b.example.com",
        "sync: Changes Pending",
        "bigip-a.example.com: STANDBY, running",
        "/Common/epmm /Common/192.0.2.10:443: user-down user-disabled",
    ]
