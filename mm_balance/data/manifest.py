def load_manifest(*a, **k):
    raise SystemExit("pending")
