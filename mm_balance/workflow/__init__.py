"""Stages put together: configuration, data, engine and tracking. Entry points, analysis and studies call this."""
