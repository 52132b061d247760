"""What a process that commands are forked from has ready: all imports, and the embedded data."""

import matplotlib.pyplot  # noqa: F401
import mlflow.pyfunc  # noqa: F401
import torch

from mm_balance import data
from mm_balance.config import resolve
from mm_balance.workflow.setup import read_data
from tests.helpers import commands, digits, trivial_worker  # noqa: F401

torch.set_num_threads(1)
data.load_digits = digits.kept
read_data(resolve({"preset": "quick"}))
