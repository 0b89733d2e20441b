"""Asking people: the companion project, the child task and what it shows."""
