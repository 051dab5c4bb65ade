"""A pair on two ports, until it is interrupted: for clients that are no Python.

What goes wrong with it is said on standard input; `console.py` has the words.
"""

import argparse
import asyncio
import contextlib
import sys

from emulator import Emulator
from emulator.console import obey


async def serve(ports: tuple[int, ...]) -> None:
    names = [f"bigip-{letter}.example.com" for letter, _ in zip("abcd", ports, strict=False)]
    async with Emulator(*names, ports=ports) as emulator:
        emulator.add_pool("/Common/epmm", "192.0.2.10:443", "192.0.2.11:443", monitor="https")
        emulator.force_offline("/Common/epmm", "192.0.2.11:443")
        emulator.add_dns_pool("/Common/epmm", "dc-a:vs1", "dc-b:vs1")
        print(f"ca {emulator.ca_file}")
        for url in emulator.urls:
            print(f"listening {url}", flush=True)
        await listen(emulator)


async def listen(emulator: Emulator) -> None:
    """Obey each line that is typed; go on serving when there are no more."""
    loop = asyncio.get_running_loop()
    heard = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(heard), sys.stdin)
    while line := await heard.readline():
        try:
            print(obey(emulator, line.decode()), flush=True)
        except (ValueError, IndexError) as error:
            print(error, flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m emulator", description=__doc__)
    parser.add_argument("--port", type=int, action="append", help="one for each unit; 0: any free")
    chosen = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(tuple(chosen.port or (0, 0))))


if __name__ == "__main__":
    main()
