"""A trained network for single images, as the functions that CVAT calls."""
