"""What `mlflow run . -e NAME` starts."""

import os

# Batches are tens of megabytes; on Linux, asking for them in large pages makes CPUs several times faster at filling them.
# torch reads this at its first allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
