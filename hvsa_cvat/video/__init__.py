"""The video itself: its frames, the flow between them, and their segments."""
