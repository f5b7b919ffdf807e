"""Evaluation of a run, from files to printed means: against pytrec_eval, ir_measures and ranx.

Every entry is a process of its own that imports what it needs, reads the files and prints the means, as
the command of an evaluation does; "warm" repeats the work in a process that has done it before. "Arrays"
leaves reading out: integer ids in memory, against ranx's compiled kernels on lists that it has made before.
"Dicts" are what Python programs have in memory, against pytrec_eval, whose form that is. trec_eval itself
takes part where the variable ``TREC_EVAL`` names it or it is found on the path.
"""

import json
import os
import shutil
import statistics
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

TREC_EVAL = """
import subprocess
def work():
    names = [part for name in ("map", "ndcg_cut.10", "P.10", "recall.100") for part in ("-m", name)]
    out = subprocess.run([BINARY, *names, QRELS, RUN], capture_output=True, text=True, check=True).stdout
    found = {line.split()[0]: float(line.split()[2]) for line in out.splitlines()}
    return [found[name] for name in ("map", "ndcg_cut_10", "P_10", "recall_100")]
"""

OUR_ARRAYS = """
import numpy as np
import optical_rs
from optical_rs.ranking import evaluate
optical_rs.set_num_threads(THREADS)
found = np.load(ARRAYS)
qrels = found["qrel_topics"], found["qrel_documents"], found["grades"]
run = found["topics"], found["documents"], found["scores"]
def work():
    result = evaluate(qrels, run, ["map", "ndcg_cut_10", "P_10", "recall_100"])
    return list(result.mean.values())
"""

RANX_ARRAYS = """
import warnings
warnings.simplefilter("ignore")
import numba
import numpy as np
from ranx import evaluate
found = np.load(ARRAYS)
def lists(topics, documents, values):
    rows = np.stack([documents, values], axis=1).astype(np.float64)
    starts = np.flatnonzero(np.diff(topics, prepend=-1))
    return numba.typed.List([np.ascontiguousarray(part) for part in np.split(rows, starts[1:])])
qrels = lists(found["qrel_topics"], found["qrel_documents"], found["grades"])
run = lists(found["topics"], found["documents"], found["scores"])
def work():
    values = evaluate(qrels, run, ["map", "ndcg@10", "precision@10", "recall@100"], threads=THREADS)
    return [values[name] for name in ("map", "ndcg@10", "precision@10", "recall@100")]
"""

PEERS = {"optical_rs": OURS, "pytrec_eval": PYTREC, "ir_measures": IR_MEASURES, "ranx": RANX}
BINARY = os.environ.get("TREC_EVAL") or shutil.which("trec_eval")
if BINARY:
    PEERS["trec_eval"] = f"BINARY = {BINARY!r}\n{TREC_EVAL}"
ARRAY_PEERS = {"optical_rs": OUR_ARRAYS, "ranx": RANX_ARRAYS}

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


ARRAY_WARM = """
import json, statistics, time
values = [float(x) for x in work()]
times = []
for _ in range(RUNS):
    began = time.perf_counter()
    work()
    times.append(time.perf_counter() - began)
print(json.dumps({"seconds": statistics.median(times), "means": values}))
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


def arrays(folder: Path, topics: int, judged: int, depth: int = 1000) -> Path:
    """The same as integer arrays; ranx needs every topic's documents in order of score."""
    rng = np.random.default_rng(0)
    documents = np.stack([rng.choice(8_000_000, depth, replace=False) for _ in range(topics)])
    chosen = np.stack([rng.choice(row, judged, replace=False) for row in documents])
    scores = np.sort(rng.random((topics, depth)))[:, ::-1]
    grades = rng.integers(1 if judged == 1 else 0, 4, size=topics * judged)
    file = folder / "arrays.npz"
    np.savez(
        file,
        topics=np.repeat(np.arange(topics), depth),
        documents=documents.ravel(),
        scores=scores.ravel(),
        qrel_topics=np.repeat(np.arange(topics), judged),
        qrel_documents=chosen.ravel(),
        grades=grades,
    )
    return file


def dict_case(judged: int, topics: int = 300, depth: int = 1000) -> dict:
    """A run of ``depth`` documents a topic, of which so many are judged, as dicts; both evaluate them."""
    import pytrec_eval
    from optical_rs.ranking import evaluate

    families = {"map", "ndcg_cut.10", "P.10", "recall.100"}
    names = [family.replace(".", "_") for family in sorted(families)]
    rng = np.random.default_rng(0)
    qrels, run = {}, {}
    for topic in range(topics):
        documents = [f"doc{d}" for d in rng.choice(8_000_000, depth, replace=False).tolist()]
        run[f"q{topic}"] = dict(zip(documents, rng.random(depth).tolist(), strict=True))
        grades = rng.integers(0, 4, judged).tolist()
        qrels[f"q{topic}"] = dict(zip(documents[:judged], grades, strict=True))

    def ours() -> dict:
        return evaluate(qrels, run, names).mean

    def theirs() -> dict:
        rows = pytrec_eval.RelevanceEvaluator(qrels, families).evaluate(run).values()
        return {name: sum(row[name] for row in rows) / len(rows) for name in names}

    off = max(abs(ours()[name] - value) for name, value in theirs().items())
    seconds = {"optical_rs": median_seconds(ours), "pytrec_eval": median_seconds(theirs)}
    ratio = seconds["pytrec_eval"] / seconds["optical_rs"]
    print(
        f"\n{topics} topics, {judged} of {depth} documents judged, dicts: optical_rs "
        f"{seconds['optical_rs'] * 1e3:.1f} ms, pytrec_eval {seconds['pytrec_eval'] * 1e3:.1f} ms: x{ratio:.1f}"
        f"   means differ by {off:.0e}"
    )
    return {
        "topics": topics,
        "documents": depth,
        "judged": judged,
        "seconds": seconds,
        "ours_is_faster_by": ratio,
        "largest_difference_of_means": off,
    }


def dicts(threads: int) -> list[dict]:
    """Evaluation of dicts in memory, with few and with all documents judged."""
    import optical_rs

    optical_rs.set_num_threads(threads)
    return [dict_case(judged) for judged in (10, 100, 1000)]


def long_run(folder: Path, threads: int) -> dict:
    """Ten million lines through the command, with its peak memory."""
    qrels, run = collection(folder, 10_000, 100)
    code = f"""
import resource, time
import optical_rs
from optical_rs.cli.trec_eval import main
optical_rs.set_num_threads({threads})
began = time.perf_counter()
main(["-m", "map", {str(qrels)!r}, {str(run)!r}])
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
    seconds = []
    for _ in range(3):
        out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        took, peak = map(float, out.splitlines()[-1].split())
        seconds.append(took)
    size = run.stat().st_size
    found = {
        "lines": 10_000_000,
        "run_bytes": size,
        "seconds": statistics.median(seconds),
        "bytes_per_second": (size + qrels.stat().st_size) / statistics.median(seconds),
        "peak_mebibytes": peak,
        "peak_over_file_size": peak * 2**20 / size,
    }
    print(
        f"\n10,000,000 lines ({size / 1e6:.0f} MB): {found['seconds']:.2f} s, "
        f"{found['bytes_per_second'] / 1e9:.2f} GB/s, peak {peak:.0f} MiB = "
        f"{found['peak_over_file_size']:.2f} of the file"
    )
    return found


def measure(code: str, head: str, runs: int) -> dict:

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
            head = f"QRELS, RUN = {str(qrels)!r}, {str(run)!r}\nTHREADS, RUNS = {{threads}}, {{runs}}\n"
            for name, code in PEERS.items():
                runs = 5 if name == "optical_rs" or topics == 1000 else 1
                entries[name] = measure(code, head.format(threads=options.threads, runs=runs), runs)
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
    array_rows = []
    for label, topics, judged in cases:
        with tempfile.TemporaryDirectory() as folder:
            file = arrays(Path(folder), topics, judged)
            head = f"ARRAYS = {str(file)!r}\nTHREADS, RUNS = {options.threads}, 9\n"
            found = {}
            for name, code in ARRAY_PEERS.items():
                out = subprocess.run(
                    [sys.executable, "-c", head + code + ARRAY_WARM],
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
                found[name] = json.loads(out)
        ratio = found["ranx"]["seconds"] / found["optical_rs"]["seconds"]
        print(
            f"\n{label}, arrays: optical_rs {found['optical_rs']['seconds'] * 1e3:.1f} ms, "
            f"ranx {found['ranx']['seconds'] * 1e3:.1f} ms: x{ratio:.1f}"
        )
        array_rows.append({"what": label, "entries": found, "ours_is_faster_by": ratio})
    dict_rows = dicts(options.threads)
    long = None
    if not options.quick:
        with tempfile.TemporaryDirectory() as folder:
            long = long_run(Path(folder), options.threads)
    packages = ["pytrec-eval-terrier", "ir-measures", "ranx", "numba", "numpy"]
    results = {"what": __doc__, "machine": machine(packages, options.threads), "cases": rows}
    write(options.json, {**results, "arrays": array_rows, "dicts": dict_rows, "long": long})


if __name__ == "__main__":
    main()
