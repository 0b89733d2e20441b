"""A trained network as a function that CVAT calls with single images."""
