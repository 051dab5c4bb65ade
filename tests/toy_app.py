"""A toy application: a SQLite file on each node, served over HTTP, and its operator's programs.

    toy_app.py serve FOLDER PORT      the application; files `serving` and `closed` are switches
    toy_app.py pull FOLDER            sync_command: copies the source's file over this node's
    toy_app.py count FOLDER           count_command
    toy_app.py turn FOLDER FLAG on|off
    toy_app.py tell FOLDER            a channel of notifications: adds a line to FOLDER/told

FOLDER is that of a node; its port is in FOLDER/port, where its peer finds it too.
"""

import json
import os
import sqlite3
import sys
import tempfile
import urllib.request
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def opened(folder: Path) -> sqlite3.Connection:
    database = sqlite3.connect(folder / "data.db", timeout=5)
    database.execute("CREATE TABLE IF NOT EXISTS items (name TEXT)")
    return database


def names(folder: Path) -> list[str]:
    with closing(opened(folder)) as database:
        return [name for (name,) in database.execute("SELECT name FROM items ORDER BY rowid")]


class Handler(BaseHTTPRequestHandler):
    folder: Path

    def do_GET(self) -> None:
        serving = (self.folder / "serving").exists()
        if self.path == "/health":
            self.answer(200, b"alive")
        elif self.path == "/dump":
            self.answer(200, self.dump())
        elif not serving:
            self.answer(503, b"stands by")
        elif self.path == "/items":
            self.answer(200, json.dumps(names(self.folder)).encode())
        else:
            self.answer(200, self.folder.name.encode())

    def do_POST(self) -> None:
        name = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if not (self.folder / "serving").exists() or (self.folder / "closed").exists():
            self.answer(503, b"no new clients")
            return
        with closing(opened(self.folder)) as database, database:
            database.execute("INSERT INTO items VALUES (?)", (name,))
        self.answer(201, b"kept")

    def dump(self) -> bytes:
        """Return a consistent copy, while writes go on."""
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "copy.db"
            with closing(opened(self.folder)) as ours, closing(sqlite3.connect(copy)) as theirs:
                ours.backup(theirs)
            return copy.read_bytes()

    def answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def serve(folder: Path, port: str) -> None:
    Handler.folder = folder
    ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()


def source(folder: Path) -> Path:
    return folder.parent / os.environ["LB_PROBE_SYNC_SOURCE"]


def pull(folder: Path) -> None:
    print("sync: step database", flush=True)
    port = (source(folder) / "port").read_text()
    before = names(folder)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/dump", timeout=5) as answer:
        body = answer.read()
    print(f"sync: bytes {len(body)}")
    (folder / "data.new").write_bytes(body)
    (folder / "data.new").replace(folder / "data.db")
    print(f"sync: changed {len(set(names(folder)) ^ set(before))}")
    print("sync: complete")


def count(folder: Path) -> None:
    asked = source(folder) if os.environ["LB_PROBE_SYNC_COUNT"] == "source" else folder
    print(len(names(asked)))


def turn(folder: Path, flag: str, way: str) -> None:
    if way == "on":
        (folder / flag).touch()
    else:
        (folder / flag).unlink(missing_ok=True)


def tell(folder: Path) -> None:
    letter = json.load(sys.stdin)
    with (folder / "told").open("a") as file:
        file.write(json.dumps(letter) + "\n")


if __name__ == "__main__":
    verb, place, *rest = sys.argv[1:]
    {"serve": serve, "pull": pull, "count": count, "turn": turn, "tell": tell}[verb](
        Path(place), *rest
    )
