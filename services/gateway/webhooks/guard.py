"""Where webhooks may go: public addresses, and those that the operator allows.

What counts is the address that a connection is made to. It is looked up and checked at every connect, and the
connection goes to that very address: a name that points elsewhere a moment later changes nothing.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Iterable, Sequence
from typing import Any

import httpcore
import httpx

from trainwright.contracts.errors import FieldError, InvalidInput

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
HOW = "set GATEWAY_WEBHOOKS_ALLOW to its network to allow it"


def networks(text: str) -> tuple[Network, ...]:
    """Return the networks of a list with commas.

    Raises:
        ValueError: One of them is none.
    """
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def refusal(address: str, allowed: Iterable[Network], *, public: bool = True) -> str | None:
    """Return why an address is not connected to, or None.

    ``public``: whether addresses of the open internet are, without being allowed by name.
    """
    found = _meant(ipaddress.ip_address(address.partition("%")[0]))
    if any(found.version == network.version and found in network for network in allowed):
        return None
    if found.is_loopback or found.is_unspecified:
        return f"{found} is this machine; {HOW}"
    if found.is_multicast or not found.is_global:
        return f"{found} is not a public address; {HOW}"
    return None if public else f"http is only for allowed addresses, and {found} is none; use https, or {HOW}"


def _meant(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for, if it does."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        # ::/96 held IPv4 addresses once, and some systems still take them so.
        if inner is None and int(address) >> 32 == 0 and int(address) > 1:
            inner = ipaddress.IPv4Address(int(address))
        return inner or address
    return address


async def permitted(host: str, port: int, allowed: Sequence[Network], *, public: bool) -> list[str]:
    """Return the addresses of a host that may be connected to.

    Raises:
        OSError: The host has none, or none that may.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    reasons = {address: refusal(address, allowed, public=public) for address in addresses}
    good = [address for address, reason in reasons.items() if reason is None]
    if not good:
        raise PermissionError(next(iter(reasons.values()), f"{host} has no address"))
    return good


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, and to no other."""

    def __init__(self, allowed: Sequence[Network], *, public: bool) -> None:
        self._allowed = allowed
        self._public = public
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's interface)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await permitted(host, port, self._allowed, public=self._public)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(_reason(error)) from error
        failed: Exception | None = None
        for address in addresses:
            try:
                return await self._plain.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise httpcore.ConnectError(f"{host} does not answer") from failed

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise httpcore.ConnectError("webhooks go over TCP")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def pool(scheme: str, allowed: Sequence[Network]) -> httpcore.AsyncConnectionPool:
    """Return connections for one scheme: plain http only goes to addresses that were allowed by name."""
    return httpcore.AsyncConnectionPool(
        ssl_context=ssl.create_default_context() if scheme == "https" else None,
        max_connections=100,
        max_keepalive_connections=20,
        keepalive_expiry=4,
        network_backend=GuardedBackend(allowed, public=scheme == "https"),
    )


async def check_url(text: str, allowed: Sequence[Network]) -> None:
    """Check an address when it is registered; a host that has no address yet may get one.

    Raises:
        InvalidInput: Nothing would ever be delivered there.
    """
    try:
        url = httpx.URL(text)
        port = url.port
    except (httpx.InvalidURL, ValueError) as error:
        raise _wrong(f"is no address: {error}") from None
    if port is not None and not 0 < port < 65536:
        raise _wrong(f"is no address: there is no port {port}")
    if url.scheme not in ("http", "https") or not url.host:
        raise _wrong("is not like https://host/path")
    if url.userinfo or url.fragment:
        raise _wrong("has a user or a fragment in it; who posts is told by the signature")
    try:
        await permitted(url.host, port or 443, allowed, public=url.scheme == "https")
    except PermissionError as error:
        raise _wrong(_reason(error)) from None
    except (OSError, UnicodeError) as error:
        if url.scheme == "http":
            raise _wrong(f"is http, and its address cannot be looked up: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _wrong(message: str) -> InvalidInput:
    return InvalidInput(f"url: {message}", [FieldError(path="url", message=message)])
