"""Measurements and the data they need; not part of the installed package."""
