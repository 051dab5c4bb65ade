"""The pages of docs/reference, made from the program itself.

`tests/test_reference.py` compares them; `pytest tests/test_reference.py --rewrite` renews them.
"""

import asyncio
import re

import click
from test_scenarios import Story

from lb_probe import __version__
from lb_probe.admin.answers import SCHEMAS
from lb_probe.admin.api import Body, TokenBody
from lb_probe.admin.openapi import document
from lb_probe.cli import cli
from lb_probe.cli.top import EXIT_CODES, SECTIONS
from lb_probe.core.model import Event, Observation, Page, Passed
from lb_probe.events.metrics import Metrics, Snapshot

HEAD = "<!-- made by `pytest tests/test_reference.py --rewrite`; do not edit -->\n"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(cell, row)) + " |" for row in rows)]) + "\n"


def cell(text):
    return str(text).replace("|", "\\|").replace("\n", " ")


# ------------------------------------------------------------------ commands
def cli_page():
    """Every verb with its usage, options and an example."""
    parts = [
        HEAD,
        "# Commands\n",
        "What each verb takes; every verb takes `-h` and `-c FILE`. What to type when is in"
        " [operations](../operations.md).\n",
    ]
    verbs = [(name, verb) for name, verb in sorted(cli.commands.items())]
    for section in SECTIONS:
        parts.append(f"## {section}\n")
        for name, verb in verbs:
            if verb.section == section:
                parts += told_verb(name, verb)
    parts += ["## Exit codes\n", table(("code", "means"), EXIT_CODES)]
    return "\n".join(parts)


def told_verb(name, verb):
    with verb.make_context(name, [], resilient_parsing=True) as ctx:
        usage = " ".join(f"lb-probe {name} {' '.join(verb.collect_usage_pieces(ctx))}".split())
    yield f"### {name}\n"
    yield re.sub(r"\n +", "\n", (verb.help or "").strip()) + "\n"
    yield f"    {usage}\n"
    options = [told_option(option) for option in verb.params if isinstance(option, click.Option)]
    options = [row for row in options if "--config" not in row[0]]
    if options:
        yield table(("option", "means"), options)
    yield f"{verb.epilog}\n" if verb.epilog else ""
    if isinstance(verb, click.Group):
        for word, inner in sorted(verb.commands.items()):
            yield from told_verb(f"{name} {word}", inner)


def told_option(option):
    text = " ".join((option.help or "").split())
    names = ", ".join(f"`{name}`" for name in option.opts)
    kind = option.type
    what = ""
    if isinstance(kind, click.Choice):
        what = " " + " ".join(f"`{word}`" for word in kind.choices)
    elif not option.is_flag:
        what = f" `{option.metavar or kind.name.upper()}`"
    if option.required:
        text += " Required."
    if option.multiple and "again" not in text and "repeatable" not in text:
        text += " May come more than once."
    shown = option.default if option.show_default else None
    return names + what, f"{text} [{shown}]" if shown is not None else text


# ------------------------------------------------------------------ API
def api_page():
    """Every route of the API, and every shape that it answers."""
    described = document(
        Body.model_json_schema(by_alias=True), TokenBody.model_json_schema(), __version__
    )
    parts = [
        HEAD,
        "# API\n",
        "The same as `GET /api/v1/openapi.json` says. Who may, and what an error means, is in"
        " [operations](../operations.md#api). Answers may gain keys.\n",
    ]
    errors = {}
    for path, ways in described["paths"].items():
        for method, way in ways.items():
            parts += told_way(method.upper(), path, way)
            errors |= {code: one for code, one in way["responses"].items() if code != "200"}
    parts += ["## Errors\n", f"Each is an {told_answer(errors['401'])}.\n"]
    parts.append(
        table(("status", "means"), [(c, errors[c]["description"]) for c in sorted(errors)])
    )
    parts.append("## Shapes\n")
    for name, schema in SCHEMAS.items():
        parts += told_shape(name, schema)
    return "\n".join(parts)


def told_way(method, path, way):
    yield f"## {method} {path}\n"
    yield f"{way['summary']}. {way.get('description', '')}".strip() + "\n"
    rows = [
        (f"`{one['name']}`", one["in"], told_type(one["schema"]), one.get("description", ""))
        for one in way.get("parameters", ())
    ]
    if rows:
        yield table(("parameter", "in", "type", "means"), rows)
    body = way.get("requestBody")
    if body:
        yield table(
            ("key of the body", "type", "means"),
            keys(body["content"]["application/json"]["schema"]),
        )
    answers = dict(way["responses"])
    codes = " ".join(sorted(code for code in answers if code != "200"))
    yield f"Answers {told_answer(answers['200'])}; errors {codes}.\n"


def told_answer(answer):
    ((kind, content),) = answer["content"].items()
    return told_type(content["schema"]) if kind == "application/json" else f"`{kind}`"


def told_shape(name, schema):
    yield f"### {name}\n"
    yield schema["description"] + "\n"
    if schema["properties"]:
        yield table(("key", "type", "means"), keys(schema))


def keys(schema):
    needed = schema.get("required", ())
    for key, value in schema.get("properties", {}).items():
        optional = "" if key in needed else " (may be missing)"
        yield f"`{key}`", told_type(value) + optional, value.get("description", "")
        if value.get("type") == "object" and "properties" in value:
            yield from ((f"`{key}.{inner[1:]}", *rest) for inner, *rest in keys(value))


def told_type(schema):
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return " or ".join(told_type(one) for one in schema[word])
    if "enum" in schema:
        return " ".join(f"`{'null' if one is None else one}`" for one in schema["enum"])
    kind = schema.get("type", "any")
    kinds = kind if isinstance(kind, list) else [kind]
    return " or ".join(told_kind(one, schema) for one in kinds)


def told_kind(kind, schema):
    if kind == "array":
        return f"list of {told_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {told_type(schema['additionalProperties'])}"
    return kind


# ------------------------------------------------------------------ metrics
def metrics_page():
    """Every metric with its kind and labels, as a scrape of a prober after a failover has them."""
    text = asyncio.run(scraped())
    rows = []
    for name, about in re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE):
        kind = re.search(rf"^# TYPE {name} (\S+)$", text, re.MULTILINE)[1]
        line = re.search(rf"^{name}(?:_bucket)?(?:\{{(.*)\}})? ", text, re.MULTILINE)
        labels = re.findall(r'(\w+)="', line[1] or "") if line else []
        labels = ", ".join(label for label in labels if label != "le")
        rows.append((f"`{name}`", kind, labels, about))
    return "\n".join(
        [
            HEAD,
            "# Metrics\n",
            "Of the prober, at `/metrics` of `metrics.listen`. What each is good for, and which are"
            " worth an alert, is in [operations](../operations.md#metrics). A histogram has"
            " `_bucket`, `_sum` and `_count`.\n",
            table(("metric", "kind", "labels", "means"), sorted(rows)),
        ]
    )


async def scraped():
    metrics = Metrics(lambda: 0.0)
    metrics.know("epmm", ["a", "b"], ["edge"])
    metrics.know_channels(["ops"])
    metrics.know_part("schedule")
    story = Story()
    await story.play("start\nnode a dies\nwait 10\nnode b promotes\nwait 5")
    seen = Observation("a", Page.STATUS, 0.0, 0.0, Passed(), certificate_until=2e9)
    metrics.emit(Event("probe.done", "epmm", {"observation": seen}))
    view = story.world.controller.view("epmm")
    await story.world.kill_prober()
    return metrics.render(Snapshot((view,), is_store_writable=True, is_config_good=True)).decode()


PAGES = {"cli.md": cli_page, "api.md": api_page, "metrics.md": metrics_page}
