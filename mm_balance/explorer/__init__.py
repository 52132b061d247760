"""Every sample of a run as a page: which modality of which sample is suspect, to see and to hear."""
