"""Names of this machine: a server without keys answers under these alone, and to no page of another site.

Every web page can have its visitor's browser ask a server on loopback, and read the answers if the page's own name is
made to mean 127.0.0.1 (DNS rebinding). Such requests name the page's host, which is looked at; what a page sends
without reading, so that it is counted, names its origin.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OWN_SITES = ("same-origin", "none")
"""Values of Sec-Fetch-Site of a page of this server, and of what a person typed."""
ELSEWHERE_REASON = "without keys only this machine is answered, under localhost or 127.0.0.1; ask there, or make keys"


def is_loopback(host: str) -> bool:
    """True for a name or an address that means this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def names_loopback(authority: str) -> bool:
    """True for a header Host, with or without a port, that names this machine."""
    try:
        return is_loopback(urlsplit(f"//{authority}").hostname or "")
    except ValueError:
        return False


def is_from_elsewhere(method: str, headers: Mapping[str, str]) -> bool:
    """True for a request that a page of another site may have sent.

    By the rules of `CrossOriginProtection` in Go's net/http for what changes something, here counts.

    Args:
        method: of the request.
        headers: by their names in small letters.
    """
    if not names_loopback(host := headers.get("host", "")):
        return True
    if method in SAFE_METHODS:
        return False
    if (site := headers.get("sec-fetch-site")) is not None:
        return site not in OWN_SITES
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != host
