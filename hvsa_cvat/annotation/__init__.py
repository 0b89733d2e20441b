"""Outlines of label maps, and what drawing them costs."""
