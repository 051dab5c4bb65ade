"""Letters by HTTP: a signed webhook of our own form, and the forms that well-known services take.

The signature is that of Standard Webhooks: HMAC-SHA256 over `ID.TIMESTAMP.BODY`, so a receiver in
any language has a library that checks it, and a body that was recorded is too old to be replayed.

What an operator wrote is text in every form: Slack gets `plain_text`, Teams a `TextRun`, which
read no markup; so no reason can ring a channel or paint a link.

Source: standardwebhooks.com; docs.slack.dev "Incoming webhooks", "Block Kit"; adaptivecards.io
RichTextBlock; developer.pagerduty.com "Events API v2"; facts on notifications.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lb_probe.core.notice import Notice, Severity, Stage, one_line
from lb_probe.events import letter as written
from lb_probe.events.wire import Answer, Way, request
from lb_probe.ports import Letter, NotDelivered

PAGERDUTY_URL = "https://events.pagerduty.com/v2/enqueue"
SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix, as Standard Webhooks has it
LEAST_SECRET_BYTES = 24
SLACK_TEXT, SLACK_HEADER = 2900, 150
TEAMS_BYTES = 24 * 1024  # a card over 28 KB is refused
DEDUP_CHARS = 255
# Refusals that say nothing of the letter: an address or a key that an operator can mend.
_OURS_TO_MEND = frozenset({401, 403, 404, 405, 407, 410})
_LATER = frozenset({408, 425, 429})

Payload = dict[str, object]
Form = Callable[[Letter], Iterator[Payload]]  # what to send, one request each
Secret = Callable[[], str]


def read_secret(path: Path) -> str:
    """Return what a file of ours holds: it is read each time, so a new one counts at once.

    Raises:
        NotDelivered: It cannot be read, or is empty.
    """
    try:
        text = path.read_text().strip()
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or error
        raise NotDelivered(f"{path} cannot be read: {told}", is_busy=True) from None
    if not text:
        raise NotDelivered(f"{path} is empty; wanted the secret", is_busy=True)
    return text


def signing_key(secret: str) -> bytes:
    """Return the key that a secret stands for: `whsec_` and base64, or any text taken as it is.

    Raises:
        ValueError: It is too short to be a secret, or no base64 behind `whsec_`.
    """
    key = secret.encode()
    if secret.startswith(SECRET_PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
        except binascii.Error:
            raise ValueError(f"base64 behind {SECRET_PREFIX}") from None
    if len(key) < LEAST_SECRET_BYTES:
        raise ValueError(f"at least {LEAST_SECRET_BYTES} bytes, e.g. of `openssl rand -base64 32`")
    return key


def signature(secret: str, key: str, timestamp: int, body: bytes) -> str:
    """Return the header that proves who sent a body, and when.

    Raises:
        ValueError: The secret cannot be used.
    """
    text = f"{key}.{timestamp}.".encode() + body
    digest = hmac.new(signing_key(secret), text, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


# ------------------------------------------------------------------ forms
def plain(letter: Letter) -> Iterator[Payload]:
    """Yield our own form; `docs/notifications.md` describes it."""
    yield written.as_json(letter)


def slack(letter: Letter) -> Iterator[Payload]:
    """Yield a Slack message; Mattermost and Rocket.Chat take its `text`."""
    title, text = written.subject(letter), "\n".join(written.body(letter))
    blocks = [
        {"type": "header", "text": _slack_text(title, SLACK_HEADER)},
        {"type": "section", "text": _slack_text(text, SLACK_TEXT)},
    ]
    # The notification's own line reads markup, so its three characters are written as entities.
    yield {"text": _entities(title), "blocks": blocks}


def _slack_text(text: str, chars: int) -> Payload:
    cut = text if len(text) <= chars else f"{text[: chars - 3]}..."
    return {"type": "plain_text", "text": cut, "emoji": False}


def _entities(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_COLOURS: Mapping[Severity, str] = {
    Severity.CRITICAL: "attention",
    Severity.WARNING: "warning",
    Severity.INFO: "default",
}


def teams(letter: Letter) -> Iterator[Payload]:
    """Yield what a Teams workflow ("when a webhook request is received") posts: a card."""
    colour = _COLOURS[written.gravest(letter)]
    title, lines = written.subject(letter), list(written.body(letter))
    card = _card(title, colour, lines)
    while len(json.dumps(card).encode()) > TEAMS_BYTES and len(lines) > 4:
        lines = [*lines[: len(lines) // 2], "... and more: lb-probe status", *lines[-2:]]
        card = _card(title, colour, lines)
    yield card


def _card(title: str, colour: str, lines: list[str]) -> Payload:
    def block(text: str, **look: object) -> Payload:
        run = {"type": "TextRun", "text": text, **look}
        return {"type": "RichTextBlock", "inlines": [run]}

    head = block(title, weight="bolder", size="medium", color=colour)
    content = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [head, *(block(line, wrap=True) for line in lines if line)],
        "msteams": {"width": "Full"},
    }
    kind = "application/vnd.microsoft.card.adaptive"
    attachment = {"contentType": kind, "contentUrl": None, "content": content}
    return {"type": "message", "summary": title, "attachments": [attachment]}


_ACTIONS: Mapping[Stage, str] = {
    Stage.OPEN: "trigger",
    Stage.SEEN: "acknowledge",
    Stage.OVER: "resolve",
    Stage.NOTE: "trigger",
}


def pagerduty(routing_key: Secret) -> Form:
    """Return the form of PagerDuty's Events API v2: an incident for each alarm, or for a storm.

    Of many notices that come at once those that open something are one incident, which a person
    resolves; those that end something are told one by one, and wake nobody.
    """

    def form(letter: Letter) -> Iterator[Payload]:
        key, opening = routing_key(), [n for n in letter.notices if _ACTIONS[n.stage] == "trigger"]
        is_storm = len(letter.notices) > 1
        if is_storm and opening:
            yield {**_event(key, "trigger", f"storm/{letter.key}"), **_storm(letter, opening)}
        for notice in letter.notices:
            if notice.replaces:
                yield _event(key, "resolve", notice.replaces)
            event = _event(key, _ACTIONS[notice.stage], notice.alarm or notice.key)
            if notice not in opening:
                yield event
            elif not is_storm:
                yield {**event, **_incident(letter, notice)}

    return form


def _event(key: str, action: str, alarm: str) -> Payload:
    return {"routing_key": key, "event_action": action, "dedup_key": _dedup_key(alarm)}


def _dedup_key(alarm: str) -> str:
    if len(alarm) <= DEDUP_CHARS:
        return alarm
    return f"{alarm[: DEDUP_CHARS - 65]}/{hashlib.sha256(alarm.encode()).hexdigest()}"


def _incident(letter: Letter, notice: Notice) -> Payload:
    told = written.notice_json(notice)
    payload = {
        "summary": one_line(notice.title, 1000),
        "source": one_line(letter.source),
        "severity": notice.gravity.value,
        "timestamp": told["at"],
        "component": notice.node or notice.group or "lb-probe",
        "group": notice.group,
        "class": notice.event_class,
        "custom_details": {k: told[k] for k in ("why", "now", "safe", "do") if told[k]},
    }
    links = [{"href": link, "text": "runbook"} for link in letter.links[:1] if link]
    return {"payload": payload, "links": links, "client": "lb-probe"}


def _storm(letter: Letter, opening: list[Notice]) -> Payload:
    storm = Letter(tuple(opening), letter.key, letter.source)
    payload = {
        "summary": written.subject(storm),
        "source": one_line(letter.source),
        "severity": written.gravest(storm).value,
        "class": "storm",
        "custom_details": {"messages": written.body(storm)},
    }
    return {"payload": payload, "client": "lb-probe"}


# ------------------------------------------------------------------ sending
class Webhook:
    """One receiver of letters by HTTP POST.

    Args:
        url: Read for each letter: it may be a secret by itself, and change.
        secret: Signs the body, where there is one.
        token: Sent as `Authorization: Bearer`, where there is one.
        is_for_alarms: It keeps track of what is open, and is told nothing else.
    """

    def __init__(
        self,
        name: str,
        url: Secret,
        form: Form,
        way: Way,
        *,
        secret: Secret | None = None,
        token: Secret | None = None,
        is_for_alarms: bool = False,
    ) -> None:
        self.name = name
        self.timeout_s = way.timeout_s + 1.0  # its own limit is told better
        self.is_for_alarms = is_for_alarms
        self._url = url
        self._form = form
        self._way = way
        self._secret = secret
        self._token = token
        self._sent: dict[str, int] = {}

    async def send(self, letter: Letter) -> None:
        """Deliver a letter once; what went through of one that takes several requests is kept.

        Raises:
            NotDelivered: Refused, no answer, or a secret that cannot be read.
        """
        try:
            done = self._sent.get(letter.key, 0)
            for number, payload in enumerate(self._form(letter)):
                if number >= done:
                    await self._post(letter, payload, number)
                    self._sent = {letter.key: number + 1}
            self._sent = {}
        except NotDelivered as error:
            raise NotDelivered(
                f"{self.name}: {error}",
                is_final=error.is_final,
                is_busy=error.is_busy,
                wait_s=error.wait_s,
            ) from None

    async def _post(self, letter: Letter, payload: Payload, number: int) -> None:
        body = json.dumps(payload, separators=(",", ":")).encode()
        # A header takes no text of other people's; the body has the whole key.
        key = f"msg_{hashlib.sha256(f'{letter.key}/{number}'.encode()).hexdigest()[:32]}"
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "lb-probe",
            "Idempotency-Key": key,
            **self._signed(key, body),
        }
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token()}"
        _judge(await request(self._way, "POST", self._url(), headers, body))

    def _signed(self, key: str, body: bytes) -> dict[str, str]:
        if self._secret is None:
            return {}
        now = int(self._way.wall())
        try:
            proof = signature(self._secret(), key, now, body)
        except ValueError as error:
            raise NotDelivered(f"the secret cannot sign; wanted {error}", is_busy=True) from None
        return {"webhook-id": key, "webhook-timestamp": str(now), "webhook-signature": proof}


def _judge(answer: Answer) -> None:
    """Tell what an answer means for the letter.

    Raises:
        NotDelivered: It was not taken.
    """
    status = answer.status
    if 200 <= status < 300:
        return
    said = f": '{answer.text[:200]}'" if answer.text else ""
    found = f"it answered {status}{said}; wanted 2xx"
    if 300 <= status < 400:
        raise NotDelivered(f"{found}, and redirects are not followed", is_busy=True)
    if status in _OURS_TO_MEND:
        raise NotDelivered(f"{found}; see its url and key", is_busy=True)
    if status in _LATER or status >= 500:
        raise NotDelivered(found, is_busy=True, wait_s=answer.wait_s)
    raise NotDelivered(found, is_final=True)
