"""Whether this process has been asked to stop, for code deep down that waits and is given no ``stop``, and by whom it is watched."""

from __future__ import annotations

import threading

requested = threading.Event()
"""Set by the first signal; ``commands.guard`` clears it as a command begins."""

LAUNCHER_VARIABLE = "MM_BALANCE_LAUNCHER"
"""Environment variable: the process that started this one and watches it. Such a process waits where a user would get an error."""
