"""Scripts that train the published comparisons and write their tables, and generators of documentation pages."""
