"""Secrets in texts that are printed, logged or written into a sweep's folder.

A secret is the user and password of a URL, the value of a URL's parameter with a name such as ``token`` or
``X-Amz-Signature``, and the value of an environment variable with a name such as ``AWS_SECRET_ACCESS_KEY``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote

HIDDEN = "***"
SHORTEST = 8
"""Characters of the shortest value of an environment variable that is hidden; shorter ones are in many texts."""
_WORDS = (
    r"passw(?:or)?d|passphrase|secret|credential|signature"
    r"|(?:api|access|account|private)[-_]?key|(?<![a-z])token(?![a-z])"
)
_FIELD = re.compile(_WORDS, re.IGNORECASE)
_VARIABLE = re.compile(rf"{_WORDS}|[a-z]pass$|_(?:key|pat|pwd|sas)$", re.IGNORECASE)
_PLACE = re.compile(r"_(?:dir|file|folder|id|name|path|uri|url)$", re.IGNORECASE)
"""Ends of names of environment variables that say where a secret is, or whose."""
_USER = re.compile(r"(://|:/(?=[^\s/@]*:))([^\s/?#\"<>]*)@")
"""User and password of a URL, also of one that was read as a path, as ``https:/me:secret@host``."""
_PARAMETER = re.compile(rf"([?&][^=&\s]*(?:{_WORDS}|(?<![a-z])sig)[^=&\s]*=)[^&\s'\"<>]+", re.IGNORECASE)


def is_secret_name(field: str) -> bool:
    """Return whether the name of a field says that its value is a secret."""
    return _FIELD.search(field) is not None


def holds_secret(text: str) -> bool:
    """Return whether a URL in a text holds a secret that is written out, not named as ``$VARIABLE``."""
    found = [match[2].rpartition(":")[2] for match in _USER.finditer(text) if ":" in match[2]]
    found += [match[0].partition("=")[2] for match in _PARAMETER.finditer(text)]
    return any(secret and not secret.startswith("$") for secret in found)


def without_secrets(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return a text without secrets: URLs without user and password, ``***`` in place of the others.

    Args:
        text: any text.
        environ: environment whose secret values are hidden, as they are and as they are written in URLs.
    """
    for secret in sorted(_values(environ), key=len, reverse=True):
        for form in (secret, quote(secret), quote(secret, safe="")):
            text = text.replace(form, HIDDEN)
    return _PARAMETER.sub(rf"\1{HIDDEN}", _USER.sub(r"\1", text))


def _values(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the secret values of an environment, those inside of URLs too."""
    for name, value in environ.items():
        url = re.match(r"[^:/\s]+://[^:@]*:(.+)@", value)
        secret = url[1] if url else value if _VARIABLE.search(name) and not _PLACE.search(name) else ""
        if len(secret) >= SHORTEST:
            yield secret
