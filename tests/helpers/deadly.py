"""Paths that do harm to the process that reads the file; they reach decoding processes like any other."""

import os
import signal
import time
from pathlib import Path

import numpy as np


class Deadly(type(Path())):
    """A path of which a file's status ends the process, as a crash in a decoder would. ``how``: name of a signal, or ``exit``."""

    def __new__(cls, path, how):
        self = super().__new__(cls, path)
        self.how = how
        return self

    def __reduce__(self):
        return Deadly, (str(self), self.how)

    def is_dir(self):
        return self.stat()

    def stat(self, **options):
        if self.how == "exit":
            os._exit(9)
        os.kill(os.getpid(), getattr(signal, self.how))
        time.sleep(60)


class Greedy(type(Path())):
    """A path of which a file's status takes 3 GiB of memory, as a damaged file might."""

    def __reduce__(self):
        return Greedy, (str(self),)

    def is_dir(self):
        return np.empty(3 << 30, np.uint8).any()
