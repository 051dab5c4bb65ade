"""What one probe met on its way."""

from collections.abc import Iterator

from lb_probe.client import Json
from lb_probe.render.text import Look, dicts, mapping, plain


def probe_block(answer: Json, look: Look) -> list[str]:
    """Return the verdict on each page of one probe."""
    lines = [f"{plain(answer.get('group'))}/{plain(answer.get('node'))}"]
    for page, found in mapping(answer.get("pages")).items():
        probe = mapping(found)
        ok = probe.get("result") == "ok"
        took = probe.get("duration_s")
        verdict = look.paint("[ok]" if ok else "[no]", "good" if ok else "bad")
        facts = (
            ("phase", probe.get("phase")),
            ("mode", probe.get("mode")),
            ("HTTP", probe.get("code")),
            ("took", f"{took * 1000:.0f} ms" if isinstance(took, int | float) else None),
        )
        text = ", ".join(f"{name} {plain(value)}" for name, value in facts if value is not None)
        lines.append(f"  {verdict} {plain(page)}: {plain(probe.get('result'))} ({text})")
        lines += [f"       {plain(probe[k])}" for k in ("detail", "head") if probe.get(k)]
        lines += [f"       {name:<9}{text}" for name, text in _seen_on_the_way(probe) if text]
    if answer.get("capture"):
        lines.append(f"wrote {plain(answer['capture'])}; read it through before you send it")
    return lines


def _seen_on_the_way(probe: Json) -> Iterator[tuple[str, str]]:
    """Yield what else one probe met, by name."""
    phases = mapping(probe.get("phases")).items()
    yield "why", plain(probe.get("why"), none="")
    yield "note", plain(probe.get("note"), none="")
    yield "asked", plain(probe.get("asked"), none="")
    yield "at", plain(probe.get("address"), none="")
    took = (f"{plain(n)} {s * 1000:.1f} ms" for n, s in phases if isinstance(s, int | float))
    yield "phases", ", ".join(took)
    for name, value in mapping(probe.get("tls")).items():
        yield "tls", f"{plain(name)} {plain(value)}" if value else ""
    for header in dicts(probe.get("headers")):
        yield "header", f"{plain(header.get('name'))}: {plain(header.get('value'), none='')}"
