"""Human-in-the-loop video semantic segmentation for CVAT."""

__version__ = "0.1.0"
