"""What people answered: read, checked for gaps, and sent back where something is missing."""
