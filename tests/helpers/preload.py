"""What a process that commands are forked from has ready: all imports, and the embedded data."""

import importlib
import pkgutil

import git  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import mlflow.pyfunc
import mlflow.store.tracking.sqlalchemy_store
import mlflow.tracing.processor.base_mlflow  # noqa: F401
import pyarrow.dataset  # noqa: F401
import torch

import mm_balance
from mm_balance import data
from mm_balance.config import resolve
from mm_balance.workflow.setup import read_data
from tests.helpers import digits, trivial_worker  # noqa: F401

for module in pkgutil.walk_packages(mm_balance.__path__, "mm_balance."):
    importlib.import_module(module.name)
torch.set_num_threads(1)
data.load_digits = digits.kept
read_data(resolve({"preset": "quick"}))
