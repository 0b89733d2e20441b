"""`python -m hvsa_cvat` is `hvsa-agent`."""

from hvsa_cvat.cli import main

main()
