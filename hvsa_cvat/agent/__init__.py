"""The agent: annotates many tasks of one server, pass after pass."""
