"""Who may see a live page, and who may change something through it.

A browser sends requests to this machine for every page that is open in it, whoever wrote that page. So that a foreign
page can neither read nor act: a request must name the host that was asked for (a name that was bound anew to 127.0.0.1
is another), what changes something must come from this page's own origin with the token that only it holds, and never
follows from a GET. On another address than loopback, everything needs a token too.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from dataclasses import dataclass, field
from typing import Protocol

from cpcnn_core.errors import UserError


class Headers(Protocol):
    """A request's headers, by their names in any case."""

    def get(self, name: str, missing: str, /) -> str: ...


class RefusedError(UserError):
    """A request that is not answered; the message says why."""


@dataclass(frozen=True)
class Access:
    """The rules for one server."""

    host: str  # that it listens on
    port: int
    with_token: bool = False  # also on loopback, where others use this machine
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    acting: str = field(default_factory=lambda: secrets.token_urlsafe(32))  # of the page, for what changes something

    @property
    def needs_token(self) -> bool:
        """Whether the page is seen with a token alone."""
        return self.with_token or not is_loopback(self.host)

    @property
    def cookie(self) -> str:
        """The cookie that holds the token; ports of one host share their cookies."""
        return f"cpcnn-{self.port}"

    def check(self, headers: Headers) -> None:
        """Raise RefusedError unless the request may see the page."""
        if is_loopback(self.host) and headers.get("Host", "") not in self._own_hosts():
            raise RefusedError("this address has another name; open the one that the command printed")
        if self.needs_token and not self.is_token(_cookie(headers.get("Cookie", ""), self.cookie)):
            raise RefusedError("the token is missing or wrong; open the address that the command printed")

    def check_action(self, headers: Headers) -> None:
        """Raise RefusedError unless the request comes from the page itself, besides what `check` asks."""
        self.check(headers)
        if headers.get("Origin", "") != f"http://{headers.get('Host', '')}":
            raise RefusedError("it comes from another page")
        if headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise RefusedError("it comes from another site")
        if headers.get("Content-Type", "") != "application/json":
            raise RefusedError("it is no JSON")
        if not _same(headers.get("X-Cpcnn-Token", ""), self.acting):
            raise RefusedError("the page is of an earlier start of the server; load it anew")

    def is_token(self, text: str) -> bool:
        """Whether the text is the token."""
        return _same(text, self.token)

    def _own_hosts(self) -> set[str]:
        names = ("127.0.0.1", "localhost", "[::1]", f"[{self.host}]" if ":" in self.host else self.host)
        return {f"{name}:{self.port}" for name in names}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _cookie(text: str, name: str) -> str:
    """The value of one cookie, whatever other programs of this host have put beside it.

    The standard library's reader drops all of them at the first that it does not understand.
    """
    pairs = (part.strip().partition("=") for part in text.split(";"))
    return next((value for key, _, value in pairs if key == name), "")
