"""Compare systems over languages and seeds: ``python -m optical_rs.experiment recipes/seven_pairs.yaml``.

A recipe names languages, seeds, a bitext and a test collection for each language, and *systems*. Each cell
(system, language, seed) is trained where it needs training, searched, measured and written to a folder of its
own; a run that is started again does what is missing. The report is made of what the folders hold.
"""

from .recipe import Experiment, read_experiment
from .report import write_report
from .runner import main, run

__all__ = ["Experiment", "main", "read_experiment", "run", "write_report"]
