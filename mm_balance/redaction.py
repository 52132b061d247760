"""Credentials in texts that are printed or logged: one function, for URLs, error messages and command lines alike."""

from __future__ import annotations

import re

HIDDEN = "***"

# A password may itself contain "/", "@" and ":", so it reaches to the last "@" before a blank or a quotation mark.
_PASSWORD = re.compile(r"""(?P<start>[a-zA-Z][\w+.-]*://[^\s:/@?#'"]*:)[^\s'"]*@""")
# A token alone, as in https://TOKEN@host. The user of a database is not a secret.
_TOKEN = re.compile(r"""(?P<start>https?://)[^\s:/@?#'"]+@""", re.IGNORECASE)
_NAMED = re.compile(
    r"""(?P<start>\b[\w.-]*(?:password|passwd|passphrase|pwd|token|secret|api[_-]?key|credential)[\w.-]*=)"""
    r"""(?P<value>"[^"]*"|'[^']*'|[^\s&;'"]+)""",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Return ``text`` with ``***`` for every password and token in its URLs and ``name=value`` pairs.

    It hides too much rather than too little: of a URL with an ``@`` in its path, the part before that is hidden, too.

    Example:
        >>> redact("cannot open postgresql://ann:p@ss@host/db?sslmode=require&password=x")
        'cannot open postgresql://ann:***@host/db?sslmode=require&password=***'
    """
    text = _PASSWORD.sub(rf"\g<start>{HIDDEN}@", text)
    text = _TOKEN.sub(rf"\g<start>{HIDDEN}@", text)
    return _NAMED.sub(rf"\g<start>{HIDDEN}", text)


def without_credentials(url: str) -> str:
    """Return a URL without user, password and query, for links: whoever follows one logs in as himself.

    Example:
        >>> without_credentials("http://ann:pass@host:5000/mlflow")
        'http://host:5000/mlflow'
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    return scheme + separator + rest.partition("?")[0].rpartition("@")[2]
