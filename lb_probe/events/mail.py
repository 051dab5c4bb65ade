"""Letters by e-mail: plain text, one at a time, over SMTP with STARTTLS and a login.

A recipient that is refused for good does not cost the others their message, and one that is put off
(greylisting) is tried again alone: who has taken it does not get it twice. Encryption is not
negotiable: where STARTTLS was asked for and is not offered, nothing is sent.

aiosmtplib is the extra `mail`; without it this module can be imported and not used.
Source: RFC 5321 section 4.2.1 (4yz is to be repeated, 5yz is not), RFC 3834 (Auto-Submitted).
"""

import hashlib
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime, formataddr
from importlib.util import find_spec
from typing import TYPE_CHECKING

from lb_probe.core.notice import Severity, one_line
from lb_probe.events import letter as written
from lb_probe.events.wire import Trust, connected, reason_of
from lb_probe.ports import Letter, NotDelivered

if TYPE_CHECKING:
    import aiosmtplib

EXTRA = "aiosmtplib"
INSTALL = "pip install 'lb-probe[mail]'"
SUBJECT_CHARS = 150
_AUTH_CODES = frozenset({530, 534, 535, 538})


@dataclass(frozen=True, slots=True)
class Server:
    """Where mail is handed in, and how.

    Attributes:
        security: `starttls`, `tls` from the first byte, or `none`.
        password: Read for each message; None for no login.
    """

    host: str
    port: int
    security: str
    trust: Trust
    username: str | None = None
    password: Callable[[], str] | None = None


class Mail:
    """One set of recipients behind one server.

    Args:
        sender: Address of the envelope and of `From`.
        wall: UTC seconds since 1970, for `Date`.
    """

    is_for_alarms = False

    def __init__(
        self,
        name: str,
        server: Server,
        sender: str,
        recipients: Iterable[str],
        *,
        timeout_s: float,
        wall: Callable[[], float],
    ) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self._server = server
        self._sender = sender
        self._recipients = tuple(recipients)
        self._wall = wall
        self._left: dict[str, tuple[str, ...]] = {}  # who is to have the present letter still

    async def send(self, letter: Letter) -> None:
        """Hand a letter in for everybody who has not taken it yet.

        Raises:
            NotDelivered: Somebody has not; final where nobody ever will.
        """
        if find_spec(EXTRA) is None:
            raise NotDelivered(
                f"{self.name}: found no package {EXTRA}; wanted the extra `mail`: {INSTALL}",
                is_busy=True,
            )
        asked = self._left.get(letter.key, self._recipients)
        message = message_of(letter, self._sender, self._recipients, self._wall())
        refused = await self._hand_in(message, asked)
        later = tuple(address for address, (code, _) in refused.items() if code < 500)
        # Who has it, or refused it for good, is not asked again.
        self._left = {letter.key: later} if later else {}
        if refused:
            said = "; ".join(f"{who}: {code} {text}" for who, (code, text) in refused.items())
            raise NotDelivered(
                f"{self.name}: {self._server.host} refused {len(refused)} of"
                f" {len(self._recipients)} recipients: {one_line(said, 500)}",
                is_final=not later,
            )

    async def _hand_in(
        self, message: bytes, recipients: Iterable[str]
    ) -> Mapping[str, tuple[int, str]]:
        """Return who was refused, and how.

        Raises:
            NotDelivered: Nobody has taken it.
        """
        import aiosmtplib

        server = self._server
        try:
            client = await self._client()
        except OSError as error:
            raise NotDelivered(
                f"{self.name}: {server.host}:{server.port} is not reached: {reason_of(error)}",
                is_busy=True,
            ) from None
        try:
            await client.connect()
            if server.password is not None and server.username is not None:
                await client.login(server.username, server.password())
            refused, _ = await client.sendmail(self._sender, list(recipients), message)
            with suppress(aiosmtplib.SMTPException, OSError):
                await client.quit()
            return {who: (code, text) for who, (code, text) in refused.items()}
        except aiosmtplib.SMTPRecipientsRefused as error:
            return {one.recipient: (one.code, one.message) for one in error.recipients}
        except aiosmtplib.SMTPResponseException as error:
            raise self._refused(error) from None
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            server.trust.forget()
            raise NotDelivered(
                f"{self.name}: {server.host}:{server.port}: {one_line(str(error), 300)}",
                is_busy=True,
            ) from None
        finally:
            client.close()

    async def _client(self) -> "aiosmtplib.SMTP":
        import aiosmtplib

        server = self._server
        is_encrypted = server.security != "none"
        context = await server.trust.context() if is_encrypted else None
        return aiosmtplib.SMTP(
            hostname=server.host,
            sock=await connected(server.host, server.port),
            use_tls=server.security == "tls",
            start_tls=server.security == "starttls",
            tls_context=context,
            timeout=self.timeout_s,
            local_hostname=hello_name(),
        )

    def _refused(self, error: "aiosmtplib.SMTPResponseException") -> NotDelivered:
        """Return what a refusal means: of the letter for good only where it says so itself."""
        import aiosmtplib

        said = f"{error.code} {one_line(str(error.message), 300)}"
        text = f"{self.name}: {self._server.host} answered {said}"
        if error.code in _AUTH_CODES:
            return NotDelivered(f"{text}; see username and password_file", is_busy=True)
        if isinstance(error, aiosmtplib.SMTPSenderRefused):
            return NotDelivered(f"{text}; see `from`: {self._sender}", is_busy=True)
        if isinstance(error, aiosmtplib.SMTPDataError):
            return NotDelivered(text, is_final=error.code >= 500)
        return NotDelivered(text, is_busy=True)


def hello_name() -> str:
    """Return what we call ourselves; never by asking a name server, which may hang."""
    name = socket.gethostname()
    return name if re.fullmatch(r"[A-Za-z0-9.-]{1,200}", name) else "localhost"


def message_of(letter: Letter, sender: str, recipients: Iterable[str], wall: float) -> bytes:
    """Return the mail as it goes over the wire; all mails of one alarm are one conversation.

    Args:
        wall: UTC seconds since 1970, for `Date`.
    """
    message = EmailMessage(policy=SMTP_POLICY)
    message["From"] = formataddr(("lb-probe", sender))
    message["To"] = ", ".join(recipients)
    message["Subject"] = one_line(f"[lb-probe] {written.subject(letter)}", SUBJECT_CHARS)
    message["Date"] = format_datetime(datetime.fromtimestamp(int(wall), UTC))
    # The same for the same letter: a mail system that sees it twice shows it once.
    message["Message-ID"] = _id(letter.key, sender)
    alarm = letter.notices[0].alarm if len(letter.notices) == 1 else ""
    if alarm:
        message["In-Reply-To"] = message["References"] = _id(f"alarm {alarm}", sender)
    message["Auto-Submitted"] = "auto-generated"
    if written.gravest(letter) is Severity.CRITICAL:
        message["Importance"] = "high"
        message["X-Priority"] = "1"
    text = "\n".join([written.subject(letter), "", *written.body(letter)])
    message.set_content(text, charset="utf-8")
    return message.as_bytes()


def _id(text: str, sender: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    return f"<{digest}.lb-probe@{sender.rpartition('@')[2]}>"
