"""Everything that is measured on a GPU, by one command of some minutes: `python -m benchmarks.gpu`.

Parts run in order of value. Each is printed as it ends, and its figures are written at once, so
that a run that is cut keeps what it had.
"""
