"""Exchanges with a CVAT server: errors, credentials, requests that are safe to repeat."""
