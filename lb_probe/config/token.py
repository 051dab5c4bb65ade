"""What the token of an operator is made of.

Source: RFC 6750, section 2.1; a little more is let through than it names.
"""

SENDABLE = "one line of visible ASCII signs without blanks, e.g. of `openssl rand -hex 32`"


def is_sendable(token: bytes) -> bool:
    """Tell whether a token can be sent in a header.

    >>> is_sendable(b"s3cret"), is_sendable("sécret".encode()), is_sendable(b"two words")
    (True, False, False)
    """
    return bool(token) and all(0x21 <= sign <= 0x7E for sign in token)
