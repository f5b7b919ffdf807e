"""``python -m optical_rs.experiment``."""

from ..cli import run_command
from .runner import main

run_command(main)
