"""The agent: sessions of many tasks on one server, moved on pass by pass."""
