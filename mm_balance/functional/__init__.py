"""The mathematics: pure functions of tensors, without state or device transfers."""
