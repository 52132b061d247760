"""Texts of data sets (labels, sample ids, file names, messages about them) as parts of Markdown pages and of CSV files.

Nothing here makes a text safe for HTML: pages are made by templates that escape by themselves.
"""

from __future__ import annotations

import re

_MARKUP = re.compile(r"[\\`*_~|\[\]]")
_START = re.compile(r"^(?P<number>\d+)?(?P<mark>(?(number)[.)](?=\s|$)|[#+=-]))")
"""A heading, an item of a list, a line under a heading."""
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_FORMULA = re.compile(r"(^|[;\t\r\n])(?=[=+\-@\t\r])")
_NUMBER = re.compile(r"[-+]?[\d.,]+(?:[eE][-+]?\d+)?%?")


def markdown_text(text: str) -> str:
    """Return ``text`` so that Markdown shows it as it is, on one line: no link, picture, emphasis, table border or HTML in it is one.

    ``<`` becomes an entity, not ``\\<``: whatever a renderer takes for an escape, it is no tag.

    Example:
        >>> print(markdown_text("<b>[a|b](javascript:x)</b>"))
        &lt;b&gt;\\[a\\|b\\](javascript:x)&lt;/b&gt;
    """
    line = re.sub(r"[&<>]", lambda found: _ENTITIES[found[0]], " ".join(text.split()))
    line = _MARKUP.sub(r"\\\g<0>", line)
    return _START.sub(lambda found: f"{found['number'] or ''}\\{found['mark']}", line)


def markdown_code(text: str) -> str:
    """Return ``text`` as code in a line of Markdown, whatever backticks and line breaks are in it.

    Example:
        >>> print(markdown_code("a`b"), markdown_code("cat"))
        ``a`b`` `cat`
    """
    line = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if not line or line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def spreadsheet_cell(value: object) -> object:
    """Return a cell of a CSV file that spreadsheets do not run as a formula: a text that begins as one gets an apostrophe before.

    A text can also begin as one after a semicolon, a tab or a line break: there some spreadsheets split cells. Numbers, also as
    texts, stay as they are; nothing else is changed.

    Example:
        >>> [spreadsheet_cell(value) for value in ("=cmd|'/C calc'!A0", "cat", "-1.5", -1.5)]
        ["'=cmd|'/C calc'!A0", 'cat', '-1.5', -1.5]
    """
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return _FORMULA.sub(r"\1'", value)
