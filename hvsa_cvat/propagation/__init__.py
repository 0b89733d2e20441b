"""Label propagation along optical flow, the baseline without a network."""
