"""Evaluation of a run, from files to printed means: against pytrec_eval, ir_measures and ranx.

Every entry is a process of its own that imports what it needs, reads the files and prints the means, as
the command of an evaluation does; "warm" repeats the work in a process that has done it before.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import arguments, machine, median_seconds, write

MEASURES = "map, nDCG@10, P@10, R@100"

OURS = """
import optical_rs
from optical_rs.ranking import evaluate
optical_rs.set_num_threads(THREADS)
def work():
    result = evaluate(QRELS, RUN, ["map", "ndcg_cut_10", "P_10", "recall_100"])
    return list(result.mean.values())
"""

PYTREC = """
import pytrec_eval
def work():
    with open(QRELS) as f:
        qrels = pytrec_eval.parse_qrel(f)
    with open(RUN) as f:
        run = pytrec_eval.parse_run(f)
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"map", "ndcg_cut.10", "P.10", "recall.100"})
    rows = evaluator.evaluate(run).values()
    names = ("map", "ndcg_cut_10", "P_10", "recall_100")
    return [sum(row[name] for row in rows) / len(rows) for name in names]
"""

IR_MEASURES = """
import ir_measures
from ir_measures import AP, P, R, nDCG
def work():
    qrels, run = ir_measures.read_trec_qrels(QRELS), ir_measures.read_trec_run(RUN)
    found = ir_measures.calc_aggregate([AP, nDCG @ 10, P @ 10, R @ 100], qrels, run)
    return [found[m] for m in (AP, nDCG @ 10, P @ 10, R @ 100)]
"""

RANX = """
import warnings
warnings.simplefilter("ignore")
from ranx import Qrels, Run, evaluate
def work():
    qrels, run = Qrels.from_file(QRELS, kind="trec"), Run.from_file(RUN, kind="trec")
    names = ["map", "ndcg@10", "precision@10", "recall@100"]
    found = evaluate(qrels, run, names)
    return [found[name] for name in names]
"""

PEERS = {"optical_rs": OURS, "pytrec_eval": PYTREC, "ir_measures": IR_MEASURES, "ranx": RANX}

COLD = "import json\nprint(json.dumps([float(x) for x in work()]))"
WARM = """
import json, resource, statistics, time
work()
times = []
for _ in range(RUNS):
    began = time.perf_counter()
    work()
    times.append(time.perf_counter() - began)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": statistics.median(times), "peak_mebibytes": peak}))
"""


def collection(folder: Path, topics: int, judged: int, depth: int = 1000) -> tuple[Path, Path]:
    """A run of ``depth`` documents a topic in order of score, and graded judgments of some of them."""
    rng = np.random.default_rng(0)
    qrels, run = folder / "qrels.txt", folder / "run.txt"
    with qrels.open("w") as q, run.open("w") as r:
        for topic in range(topics):
            documents = rng.choice(8_000_000, depth, replace=False)
            scores = np.sort(rng.random(depth))[::-1]
            rows = zip(documents.tolist(), scores.tolist(), strict=True)
            r.write("".join(f"{topic} Q0 doc{d} {i} {s:.6f} bm25\n" for i, (d, s) in enumerate(rows, 1)))
            chosen = documents[rng.choice(depth, judged, replace=False)].tolist()
            grades = rng.integers(1 if judged == 1 else 0, 4, size=judged).tolist()
            q.write("".join(f"{topic} 0 doc{d} {g}\n" for d, g in zip(chosen, grades, strict=True)))
    return qrels, run


def measure(code: str, qrels: Path, run: Path, threads: int, runs: int) -> dict:
    head = f"QRELS, RUN, THREADS, RUNS = {str(qrels)!r}, {str(run)!r}, {threads}, {runs}\n"

    def process(tail: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", head + code + tail], check=True, capture_output=True, text=True
        ).stdout

    values = json.loads(process(COLD))
    cold = median_seconds(lambda: process(COLD), least=0.5, runs=runs)
    return {"cold_seconds": cold, "means": values, "warm": json.loads(process(WARM))}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="the first collection alone")
    options = parser.parse_args()
    cases = [("1,000 topics, 100 graded judgments each", 1000, 100)]
    if not options.quick:
        cases += [
            ("7,000 topics, 100 graded judgments each", 7000, 100),
            ("7,000 topics, one judgment each", 7000, 1),
        ]
    rows = []
    for label, topics, judged in cases:
        with tempfile.TemporaryDirectory() as folder:
            qrels, run = collection(Path(folder), topics, judged)
            size = run.stat().st_size
            entries = {}
            for name, code in PEERS.items():
                runs = 5 if name == "optical_rs" or topics == 1000 else 1
                entries[name] = measure(code, qrels, run, options.threads, runs)
            mine = entries["optical_rs"]
            print(f"\n{label}; a run of {size / 1e6:.0f} MB; {MEASURES}")
            for name, entry in entries.items():
                entry["ours_is_faster_by"] = entry["cold_seconds"] / mine["cold_seconds"]
                entry["ours_is_faster_by_warm"] = entry["warm"]["seconds"] / mine["warm"]["seconds"]
                off = max(abs(x - y) for x, y in zip(entry["means"], mine["means"], strict=True))
                entry["largest_difference_of_means"] = off
                print(
                    f"  {name:12} cold {entry['cold_seconds']:7.2f} s x{entry['ours_is_faster_by']:6.1f}   "
                    f"warm {entry['warm']['seconds']:7.3f} s x{entry['ours_is_faster_by_warm']:6.1f}   "
                    f"peak {entry['warm']['peak_mebibytes']:6.0f} MiB   means differ by {off:.0e}",
                    flush=True,
                )
            rows.append({"what": label, "run_bytes": size, "entries": entries})
    packages = ["pytrec-eval-terrier", "ir-measures", "ranx", "numba", "numpy"]
    write(options.json, {"what": __doc__, "machine": machine(packages, options.threads), "cases": rows})


if __name__ == "__main__":
    main()
