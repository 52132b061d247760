"""Texts that a data set may bring and that are to be shown, not run: labels, sample ids, groups, names of files and runs.

A page on which one of them runs has ``data-broken`` on its root; one that loads something asks the network for a name that does
not exist.
"""

RUN = "document.documentElement.dataset.broken=1"
OUTSIDE = "http://hostile.invalid"

HOSTILE = [
    "an ordinary text",  # DataTables takes a column for text or HTML by its first cell
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f'"><img src=x onerror="{RUN}">',
    f"<img src=x onerror={RUN}>&amp;",  # DataTables reads texts with an ampersand as HTML, to search them
    f"<svg onload={RUN}>&lt;",
    f"<img src={OUTSIDE}/picture.png>&amp;",
    f"<link rel=stylesheet href={OUTSIDE}/style.css>&amp;",
    f"' onmouseover='{RUN}' x='",
    f"[press me](javascript:{RUN})",
    f"<javascript:{RUN}>",
    f"![look]({OUTSIDE}/picture.png)",
    f"<details open ontoggle={RUN}>&",
    "{{7*7}}{% raw %}${7*7}",
    "=cmd|'/C calc'!A0",
    "+1+cmd|'/C calc'!A0",
    "-2+3+cmd|'/C calc'!A0",
    "@SUM(1+1)*cmd|'/C calc'!A0",
    "a;=cmd|'/C calc'!A0",
    "\\input{/etc/passwd} $x^{$ 100 % # _ ~ ^ & a|b `c`",
    "[1] first *star* \\\\",
    "مرحبا بالعالم שלום",
    "x" * 10_000,
    f"<img src=x onerror={RUN}>&" * 300,
]
