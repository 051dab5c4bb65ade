"""A pair on two ports, until it is interrupted: for clients that are no Python."""

import argparse
import asyncio
import contextlib

from emulator import Emulator


async def serve(ports: tuple[int, ...]) -> None:
    names = [f"bigip-{letter}.example.com" for letter, _ in zip("abcd", ports, strict=False)]
    async with Emulator(*names, ports=ports) as emulator:
        emulator.add_pool("/Common/epmm", "192.0.2.10:443", "192.0.2.11:443")
        emulator.force_offline("/Common/epmm", "192.0.2.11:443")
        emulator.add_dns_pool("/Common/epmm", "dc-a:vs1", "dc-b:vs1")
        print(f"ca {emulator.ca_file}")
        for url in emulator.urls:
            print(f"listening {url}", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m emulator", description=__doc__)
    parser.add_argument("--port", type=int, action="append", help="one for each unit; 0: any free")
    chosen = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(tuple(chosen.port or (0, 0))))


if __name__ == "__main__":
    main()
