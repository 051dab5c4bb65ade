"""A real SMTP server (aiosmtpd) on loopback that does what a test tells it to."""

import asyncio
import ssl
import warnings
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.policy import default

from aiosmtpd.smtp import SMTP, AuthResult

from lb_probe.listening import end_listening

USER, PASSWORD = "lb-probe", "correct horse battery staple"


class MailServer:
    """Keeps what it took; refuses recipients, senders or messages while it is told to.

    Attributes:
        refused: For an address, the answer to RCPT instead of 250.
        answer: What is said after the message's end, where that is not 250.
        hangs: Nothing is answered to MAIL while this is set.
        logins: Who logged in.
    """

    def __init__(self) -> None:
        self.taken = []
        self.refused = {}
        self.answer = ""
        self.sender_answer = ""
        self.hangs = asyncio.Event()
        self.logins = []
        self.port = 0
        self.encrypted = []

    @property
    def messages(self):
        return [message_from_bytes(raw, policy=default) for _, _, raw in self.taken]

    def authenticate(self, server, session, envelope, mechanism, data):
        good = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        if good:
            self.logins.append(mechanism)
        return AuthResult(success=good, handled=False)

    async def handle_MAIL(self, server, session, envelope, address, options):  # noqa: N802
        if self.hangs.is_set():
            await asyncio.sleep(3600.0)
        if self.sender_answer:
            return self.sender_answer
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        if self.answer:
            return self.answer
        self.encrypted.append(session.ssl is not None)
        self.taken.append((envelope.mail_from, list(envelope.rcpt_tos), envelope.content))
        return "250 taken"


@asynccontextmanager
async def mail_server(tls: ssl.SSLContext | None = None, *, login=False, port=0, implicit=False):
    """Serve until the end of the block."""
    server = MailServer()
    sessions = []

    def session() -> SMTP:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of logins without TLS, which is the test
            made = SMTP(
                server,
                hostname="mail.example.com",
                tls_context=None if implicit else tls,
                require_starttls=tls is not None and not implicit,
                authenticator=server.authenticate if login else None,
                auth_required=login,
                auth_require_tls=tls is not None and not implicit,
            )
        sessions.append(made)
        return made

    loop = asyncio.get_running_loop()
    ssl_context = tls if implicit else None
    listening = await loop.create_server(session, "127.0.0.1", port, ssl=ssl_context)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        await end_listening(listening)
        for one in sessions:
            if one.transport is not None:
                one.transport.abort()
        await asyncio.sleep(0)  # each hears of it
