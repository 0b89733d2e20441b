"""Public data sets and old exports, brought to the folders that every command takes."""
