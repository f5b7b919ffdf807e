"""``python -m optical_rs.experiment``."""

from ..cli import run_command
from ..cli.experiment import main

run_command(main)
