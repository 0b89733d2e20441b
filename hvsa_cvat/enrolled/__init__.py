"""Enrolled tasks as whoever only looks finds them: read from the workspace alone.

The server is never asked, and nothing waits for the agents at work. The dashboard, the export, and
the commands `report`, `log` and `status --review` stand on it.
"""
