"""The mathematics: pure functions of tensors, no state, no device moves."""
