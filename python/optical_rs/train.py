"""``python -m optical_rs.train`` is ``optical-rs train``."""

from .cli import run_command
from .cli.train import main

if __name__ == "__main__":
    run_command(main)
