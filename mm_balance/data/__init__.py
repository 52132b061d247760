from mm_balance.data.dataset import BatchLoader, MultimodalData, Split
def load_data(*a, **k): raise SystemExit("pending")
