"""The OpenAPI document of the operator's API, built from the verbs and the models of its bodies."""

from typing import Any

from lb_probe.admin.answers import SCHEMAS, Schema, ref
from lb_probe.admin.auth import COOKIE
from lb_probe.core.acts import VERBS

_NAME = {"type": "string", "pattern": "^[^/]+$"}
_GROUP = {
    "name": "group",
    "in": "path",
    "required": True,
    "description": "its name in probes.yaml",
    "schema": _NAME,
}
_VERB = {
    "name": "verb",
    "in": "path",
    "required": True,
    "description": "as the command has them",
    "schema": {"type": "string", "enum": list(VERBS)},
}
_TOKEN = {
    "name": "token",
    "in": "path",
    "required": True,
    "description": "its id or its name",
    "schema": _NAME,
}
_SPAN = (
    {
        "name": "group",
        "in": "query",
        "description": "records of this group and of the prober as a whole",
        "schema": {"type": "string"},
    },
    {
        "name": "limit",
        "in": "query",
        "description": "how many records, 1 to 10000; 100 where it is left out",
        "schema": {"type": "integer", "minimum": 1, "maximum": 10000, "default": 100},
    },
    {
        "name": "since",
        "in": "query",
        "description": "7d, 12h, 30m, or an ISO-8601 time with its offset",
        "schema": {"type": "string"},
    },
    {
        "name": "before",
        "in": "query",
        "description": "the `before` of an answer: the page before it",
        "schema": {"type": "integer", "minimum": 1, "maximum": 10**18 - 1},
    },
    {
        "name": "all",
        "in": "query",
        "description": "1: observations and marks of life as well",
        "schema": {"type": "integer", "enum": [0, 1], "default": 0},
    },
)
_WORDS = {
    401: "no valid token",
    403: "role too low, or a request of another site",
    404: "no such group, verb or token",
    409: "refused by a gate, or the generation changed",
    413: "body too large",
    422: "not understood; nothing was changed",
    429: "too many failures from this address; `Retry-After` says how long to wait",
    503: "not possible now",
}


def document(body: Schema, token: Schema, version: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document.

    Args:
        body: JSON Schema of an act's body.
        token: JSON Schema of the body that makes a token.
    """
    act = {
        "summary": "Act on a group; `dry_run` only shows the plan",
        "description": "Needs the role operator.",
        "parameters": [_GROUP, _VERB],
        "requestBody": _body(body),
        "responses": _answers({"oneOf": [ref("Group"), ref("Plan")]}, 404, 409, 413, 422, 503),
    }
    make = {
        "summary": "Make a token; its text is in this answer only",
        "description": "Needs the role admin, for all groups.",
        "requestBody": _body(token),
        "responses": _answers(ref("Token"), 404, 413, 422, 503),
    }
    login = {
        "summary": "Begin a browser's session; the answer sets its cookie",
        "description": "From our own page only: `Sec-Fetch-Site: same-origin`, or `Origin`.",
        "security": [],
        "requestBody": _body(_LOGIN),
        "responses": _answers(ref("Session"), 413, 422, 503),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "lb-probe operator API",
            "version": version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}, {"session": []}],
        "paths": {
            "/api/v1/groups": {"get": _get("All groups", "Groups")},
            "/api/v1/groups/{group}": {"get": _get("One group", "Group", _GROUP)},
            "/api/v1/groups/{group}/explain": {
                "get": _get("Why a group is as it is", "Explanation", _GROUP)
            },
            "/api/v1/groups/{group}/{verb}": {"post": act},
            "/api/v1/history": {"get": _get("What happened, newest last", "History", *_SPAN)},
            "/api/v1/events": {"get": _events()},
            "/api/v1/openapi.json": {"get": _get("This document", "")},
            "/api/v1/session": {
                "post": login,
                "delete": _get("End the browser's session", "Nothing"),
            },
            "/api/v1/tokens": {
                "get": _get("All tokens, without their secrets", "Tokens"),
                "post": make,
            },
            "/api/v1/tokens/{token}": {"delete": _get("End a token", "Token", _TOKEN)},
        },
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
            },
        },
    }


def _body(schema: Schema) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _get(text: str, answer: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    # Every request may be one of nonsense: a token in its address is 422.
    codes = (404, 422, 503) if parameters else (422, 503)
    schema = ref(answer) if answer else {"type": "object"}
    return {
        "summary": text,
        "parameters": list(parameters),
        "responses": _answers(schema, *codes),
    }


def _events() -> dict[str, Any]:
    stream = {"text/event-stream": {"schema": {"type": "string"}}}
    answers = _answers({"type": "string"}, 422, 503)
    answers["200"] = {"description": "a snapshot, then each event", "content": stream}
    return {"summary": "Follow what happens: server-sent events", "responses": answers}


def _answers(schema: Schema, *codes: int) -> dict[str, Any]:
    error = {"application/json": {"schema": ref("Error")}}
    return {
        "200": {"description": "done", "content": {"application/json": {"schema": schema}}},
        **{
            str(code): {"description": _WORDS[code], "content": error}
            for code in sorted((401, 403, *codes, 429))
        },
    }


_LOGIN = {
    "type": "object",
    "required": ["token"],
    "properties": {
        "token": {
            "type": "string",
            "description": "of an operator in probes.yaml, or one that was made",
            "minLength": 1,
            "maxLength": 1000,
        }
    },
}
