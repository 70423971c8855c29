"""Any frozen classifier as a backbone: tapped by hooks, built by the user's own callable, never run unasked."""
