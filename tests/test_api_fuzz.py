"""The API under requests that nobody thought of, made from its own OpenAPI document.

No answer may be a 5xx that the document does not name, none may have another status, type or shape
than it says, and what the document forbids must be refused. Each route gets its share of a few
seconds; `FUZZ=500 pytest tests/test_api_fuzz.py` looks for longer.
"""

import asyncio
import copy
import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis: make test")

from api_desk import TOKENS, Desk, until  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi import checks  # noqa: E402

from lb_probe import __version__  # noqa: E402
from lb_probe.admin import auth  # noqa: E402
from lb_probe.admin.api import Body, TokenBody  # noqa: E402
from lb_probe.admin.openapi import document  # noqa: E402
from lb_probe.core.active_active import Pool  # noqa: E402


def as_asked():
    """The document, with the words that mean something here: else no request would be an act."""
    body = Body.model_json_schema(by_alias=True)
    words = body["properties"]
    words["reason"]["enum"] = ["repaired", "<b>x</b>", "\u00e4\u4e2d\u0e40"]
    words["to"]["enum"] = [None, "a", "b"]
    words["generation"]["enum"] = [None, 1, 2, 3]
    words["override"]["items"] = {"enum": ["synced", "single-primary", "primary-serving"]}
    words["attest"] = {
        "type": "object",
        "properties": {"synced": {"enum": ["Completed 10:42Z"]}},
        "additionalProperties": False,
    }
    for key in ("for", "hands_off"):  # of one verb only; tests/test_api.py has their mistakes
        del words[key]
    found = copy.deepcopy(document(body, TokenBody.model_json_schema(), __version__))
    for ways in found["paths"].values():
        for way in ways.values():
            for parameter in way.get("parameters", ()):
                if parameter["name"] == "group":
                    parameter["schema"] = {"type": "string", "enum": ["epmm", "gw"]}
    return found


DOCUMENT = as_asked()
SCHEMA = schemathesis.openapi.from_dict(copy.deepcopy(DOCUMENT))
# Without the stream, which does not end; tests/test_api.py follows it.
ROUTES = [
    route for found in SCHEMA.get_all_operations() if (route := found.ok()).path != "/api/v1/events"
]
EXAMPLES = int(os.environ.get("FUZZ", "12"))
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]


@pytest.fixture(scope="module")
def url():
    """A desk with a loop and a thread of its own; guesses are not counted there."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz", dir="/tmp"))
    ready, ended = threading.Event(), asyncio.Event()
    found = {}

    async def sit():
        found["loop"] = asyncio.get_running_loop()
        pool = Pool("gw", ("gw-1", "gw-2", "gw-3"), fall=3, rise=2, max_age_s=60.0)
        async with Desk(folder, [pool]).open() as desk:
            await until(lambda: desk.view.adapters[0].in_sync, "the load balancer was read")
            await desk.fail_over()
            found["url"] = f"http://127.0.0.1:{desk.port}"
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(sit()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auth, "FAILURES", 10**9)
        thread.start()
        assert ready.wait(30)
        yield found["url"]
        found["loop"].call_soon_threadsafe(ended.set)
        thread.join(30)
    shutil.rmtree(folder)


def ways(route):
    """Right requests, and wrong ones where there is something to be wrong."""
    told = DOCUMENT["paths"][route.path][route.method]
    yield GenerationMode.POSITIVE
    if told.get("parameters") or told.get("requestBody"):
        yield GenerationMode.NEGATIVE


# The plugin of schemathesis is off (pyproject.toml): it makes every start of pytest slower.
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.label)
def test_no_request_gets_an_answer_that_is_not_in_the_document(route, url):
    headers = {"Authorization": f"Bearer {TOKENS['adm']}", "Sec-Fetch-Site": "same-origin"}

    def ask(case):
        case.call_and_validate(base_url=url, headers=headers, checks=CHECKS)

    for way in ways(route):
        fuzz(given(route.as_strategy(generation_mode=way))(ask))()


def fuzz(test):
    return settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize="FUZZ" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )(test)
