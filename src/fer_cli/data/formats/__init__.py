"""Readers of shape files, one module a family of formats; `registry.read_shape` chooses among them by suffix."""
