"""The plain round, as one would write it from the paper: the yardstick of `benchmarks.bench` and
the oracle of `tests/test_reference.py`.

float32, eager PyTorch, NCHW, a DataLoader, flow pair by pair, scikit-learn's KMeans with its
defaults, prediction frame by frame. Nothing of the product but its values (`types`, `config`), the
rule that draws an epoch's pairs, so that both learn from the same ones in as many steps, and the
parameters of its network.
"""
