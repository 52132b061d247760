"""Tables and figures of any set of logged runs: HTML, Markdown, LaTeX, CSV, PDF, SVG, PNG.

Data flow in one direction: ``runs`` (records of MLflow -> trained runs), ``groups`` (same settings -> one row), ``statistics`` (over
seeds), ``tables`` and ``drawings`` (what is shown), ``table`` and ``page`` (text), ``make`` (all together), ``files``.
"""
