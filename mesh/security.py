"""What a listener needs before it may be reached from other machines: a deploy is code execution.

Owns the rule, and the names of the files by which the processes of one mesh know each other. Reads no file: that is
`credentials`. Called by whoever starts a listener that takes code or calls of user code, and by the commands.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from mesh.errors import InvalidConfig, Problem

TOKEN_CHARS_MIN = 16
TOKEN_CHARS_MAX = 512
TOKENS_MAX = 8
"""Tokens that one file holds: two are needed while one takes the place of the other."""


@dataclass(frozen=True, slots=True)
class Security:
    """How a process shows who it is to the others, and what it asks of them. Paths are absolute; empty: none."""

    token_file: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_ca: str = ""
    tls_server_name: str = ""
    """The name that the certificates of all others carry, instead of the host at which they are reached."""
    insecure: bool = False
    """Listen wherever told, without any of these."""

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted, with certificates on both sides."""
        return bool(self.tls_cert or self.tls_key or self.tls_ca)


NO_SECURITY = Security()
"""Enough where only this machine reaches what listens."""


def check_files(security: Security) -> None:
    """Raise InvalidConfig unless certificate, key and CA are named together: TLS is mutual, or it is not there."""
    named = {"--tls-cert": security.tls_cert, "--tls-key": security.tls_key, "--tls-ca": security.tls_ca}
    missing = [flag for flag, path in named.items() if not path]
    if missing and len(missing) < len(named):
        text = f"{' and '.join(missing)} not given: TLS between the parts of mesh needs all of {', '.join(named)}"
        raise InvalidConfig((Problem("", text, f"give {' and '.join(missing)} too"),))
    if security.tls_server_name and not security.tls:
        hint = "give --tls-cert, --tls-key and --tls-ca too, or leave it out"
        raise InvalidConfig((Problem("", "--tls-server-name without TLS", hint),))


def check_listener(what: str, host: str, security: Security) -> None:
    """Raise InvalidConfig if `what` would listen on `host` for code or calls of anybody who can reach it."""
    if is_loopback(host) or security.token_file or security.tls or security.insecure:
        return
    where = host or "every address"
    text = f"{what} would take code or calls from anyone who can reach it on {where}"
    hint = "give --token-file, or --tls-cert, --tls-key and --tls-ca; --insecure if the network lets in nobody else"
    raise InvalidConfig((Problem("", text, hint),))


def is_loopback(host: str) -> bool:
    """Whether `host` is an address that only processes of this machine reach. A name other than localhost is not."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if bare.lower() == "localhost":
        return True
    try:
        address = ip_address(bare)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def tokens_in(text: str) -> tuple[str, ...]:
    """Return the tokens of a token file: one a line, the first is the one to present. Raises ValueError: what is wrong.

    The message never has anything of the text in it.
    """
    tokens = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not tokens:
        raise ValueError("holds no token")
    if len(tokens) > TOKENS_MAX:
        raise ValueError(f"holds {len(tokens)} lines; at most {TOKENS_MAX} tokens are taken, one a line")
    for number, token in enumerate(tokens, start=1):
        if not TOKEN_CHARS_MIN <= len(token) <= TOKEN_CHARS_MAX:
            bounds = f"from {TOKEN_CHARS_MIN} to {TOKEN_CHARS_MAX}"
            raise ValueError(f"has a token of {len(token)} characters (the {_nth(number)}); {bounds} are taken")
        if not all("!" <= character <= "~" for character in token):
            raise ValueError(f"has a token with spaces or characters that are not ASCII (the {_nth(number)})")
    return tokens


def _nth(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
