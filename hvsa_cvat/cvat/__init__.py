"""The edge to CVAT: the only part that knows its API."""
