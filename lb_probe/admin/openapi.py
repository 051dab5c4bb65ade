"""The OpenAPI document of the operator's API, built from the verbs and the body's model."""

from typing import Any

from lb_probe.admin.auth import COOKIE
from lb_probe.core.acts import VERBS


def document(body: dict[str, Any], token: dict[str, Any], version: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document.

    Args:
        body: JSON Schema of an act's body.
        token: JSON Schema of the body that makes a token.
    """
    group = {"name": "group", "in": "path", "required": True, "schema": {"type": "string"}}
    verb = {
        "name": "verb",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "enum": list(VERBS)},
    }
    act = {
        "summary": "Act on a group; `dry_run` only shows the plan",
        "parameters": [group, verb],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": _answers("the group, or the plan", 404, 409, 413, 422, 503),
    }
    limit = {
        "name": "limit",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": 10000, "default": 100},
    }
    of_group = {"name": "group", "in": "query", "schema": {"type": "string"}}
    since = {
        "name": "since",
        "in": "query",
        "description": "7d, 12h, 30m, or an ISO-8601 time with its offset",
        "schema": {"type": "string"},
    }
    before = {
        "name": "before",
        "in": "query",
        "description": "the `before` of an answer: the page before it",
        "schema": {"type": "integer", "minimum": 1},
    }
    everything = {
        "name": "all",
        "in": "query",
        "description": "1: observations and marks of life as well",
        "schema": {"type": "integer", "enum": [0, 1], "default": 0},
    }
    which = {
        "name": "token",
        "in": "path",
        "required": True,
        "description": "its id or its name",
        "schema": {"type": "string"},
    }
    made = {
        "summary": "makes a token; its text is in this answer only",
        "requestBody": {"required": True, "content": {"application/json": {"schema": token}}},
        "responses": _answers("the token", 404, 413, 422, 503),
    }
    history = (of_group, limit, since, before, everything)
    return {
        "openapi": "3.1.0",
        "info": {"title": "lb-probe operator API", "version": version},
        "security": [{"token": []}, {"session": []}],
        "paths": {
            "/api/v1/groups": {"get": _get("all groups")},
            "/api/v1/groups/{group}": {"get": _get("one group", group)},
            "/api/v1/groups/{group}/explain": {"get": _get("why it is as it is", group)},
            "/api/v1/groups/{group}/{verb}": {"post": act},
            "/api/v1/history": {"get": _get("what happened, newest last", *history)},
            "/api/v1/events": {"get": _get("server-sent events")},
            "/api/v1/openapi.json": {"get": _get("this document")},
            "/api/v1/session": {"post": _LOGIN, "delete": _get("ends the browser's session")},
            "/api/v1/tokens": {"get": _get("all tokens, without their secrets"), "post": made},
            "/api/v1/tokens/{token}": {"delete": _get("ends a token", which)},
        },
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
            }
        },
    }


def _get(text: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    codes = (404, 422, 503) if parameters else (503,)
    return {"summary": text, "parameters": list(parameters), "responses": _answers(text, *codes)}


def _answers(text: str, *codes: int) -> dict[str, Any]:
    words = {
        401: "no valid token",
        403: "role too low",
        404: "no such group or verb",
        409: "refused by a gate, or the generation changed",
        413: "body too large",
        422: "not understood; nothing was changed",
        429: "too many failures from this address; wait",
        503: "not possible now",
    }
    return {
        "200": {"description": text},
        **{str(code): {"description": words[code]} for code in (401, 403, 429, *codes)},
    }


_LOGIN = {
    "summary": "begins a browser's session; the answer sets its cookie",
    "security": [],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["token"],
                    "properties": {"token": {"type": "string"}},
                }
            }
        },
    },
    "responses": _answers("name and role", 413, 422, 503),
}
