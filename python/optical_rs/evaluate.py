"""``python -m optical_rs.evaluate``: the command ``optical-rs evaluate``."""

from .cli import run_command
from .cli.evaluate import main

if __name__ == "__main__":
    run_command(main)
