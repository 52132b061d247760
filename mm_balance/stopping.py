"""Whether this process has been asked to stop, for code deep down that waits and is given no ``stop``."""

from __future__ import annotations

import threading

requested = threading.Event()
"""Set by the first signal; ``commands.guard`` clears it as a command begins."""
