"""Shapes and figures as pictures and as data for charts."""
