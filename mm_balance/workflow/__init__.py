"""Training stages assembled from configuration, data, engine and tracking; used by commands, analysis and studies."""
