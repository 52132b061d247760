"""Callbacks for training loops of other libraries, one module each, which needs that library (an extra of this package)."""
