"""``python -m optical_rs.cli``."""

from . import main

main()
