"""What the benchmarks share: timing, the machine, output."""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="for us and every peer")
    return parser


def median_seconds(job: Callable[[], Any], *, least: float = 0.5, runs: int = 5) -> float:
    """Median over repetitions, after a warm-up: at least ``runs`` of them and ``least`` seconds.

    A job that alone takes longer than ``20 * least`` is timed once more and no further.
    """
    began = time.perf_counter()
    job()
    slow = time.perf_counter() - began > 20 * least
    times: list[float] = []
    while len(times) < (1 if slow else runs) or (not slow and sum(times) < least):
        began = time.perf_counter()
        job()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def machine(packages: Iterable[str], threads: int) -> dict[str, Any]:
    """Processor, versions and threads, as results carry them."""
    import optical_rs

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        model = f"{len(names)} x {names[0]}" if names else model
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "cpu": model,
        "system": platform.system(),
        "python": platform.python_version(),
        "threads": threads,
        "optical_rs": optical_rs.build_info(),
        "versions": versions,
    }


def write(path: Path | None, results: dict[str, Any]) -> None:
    """Write results, if a path is given."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"\nwritten: {path}")
