"""Tables and figures of results: `collect` reads runs, `to_markdown` writes; nothing here trains by itself."""
