"""Compare ``optical-rs trec-eval`` with trec_eval: the bytes printed and the exit status of many calls.

    TREC_EVAL=path/to/trec_eval python tools/compare_trec_eval.py

The binary is that of the variable ``TREC_EVAL``, or ``trec_eval`` on the path. The one to compare with is built from
the tag v9.0.8 of 2020, which calls itself 9.0.7; that of the tag trec_eval-9.0.8 breaks ties of scores in double precision. Its own test files are taken from the folder ``test`` beside it, if there is one; other files are
generated, the same ones each time. Ends with 1 if any call differs.
"""

import argparse
import contextlib
import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from optical_rs.cli import run_command
from optical_rs.cli.trec_eval import main as ours


class Outcome(NamedTuple):
    """What a call printed, what went to standard error, and its exit status."""

    printed: bytes
    errors: bytes
    status: int


def binary() -> str | None:
    """trec_eval, where it is installed."""
    return os.environ.get("TREC_EVAL") or shutil.which("trec_eval")


def call_ours(arguments: list[str]) -> Outcome:
    """The command of this package, in this process."""
    printed, errors = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        try:
            run_command(ours, arguments)
        except SystemExit as stop:
            status = stop.code
    printed.flush()
    return Outcome(printed.buffer.getvalue(), errors.getvalue().encode(), int(status or 0))


def call_theirs(trec_eval: str, arguments: list[str]) -> Outcome:
    """trec_eval."""
    done = subprocess.run([trec_eval, *arguments], capture_output=True)
    return Outcome(done.stdout, done.stderr, done.returncode)


def generate(folder: Path, seed: int = 0) -> None:
    """Files of judgments and runs with all that matters to a measure, and some that cannot be used."""
    rng = random.Random(seed)
    documents = [f"doc-{i}" for i in range(120)] + ["Doc_7", "é", "\N{CJK UNIFIED IDEOGRAPH-6587}", "z.z"]
    topics = ["1", "2", "10", "q", "Q", "tópico", "q-with-a-long-name", "9"]
    qrels, groups, prefs, run = [], [], [], []
    for topic in [*topics, "judged-alone", "judged-alone-2"]:
        pool = rng.sample(documents, rng.choice([3, 20, 60]))
        for document in pool:
            # Grades of 0 to 12, and documents of the pool that are not judged.
            grade = rng.choice([0, 0, 0, 0, 1, 1, 2, 3, -1, 12])
            qrels.append(f"{topic} 0 {document} {grade}")
            for judge in rng.sample(["a", "b", "c"], rng.choice([1, 3])):
                groups.append(f"{topic} {judge} {document} {rng.choice([0, 0, 1, 2])}")
        for judge in ("a", "b"):
            level = {d: rng.choice([0.0, 0.0, 0.5, 1.0, 2.5, 3.0]) for d in pool}
            for part in range(rng.choice([1, 3])):
                some = rng.sample(pool, min(len(pool), 7))
                prefs += [f"{topic} {judge} s{part} {d} {level[d]}" for d in some]
    for topic in [*topics, "retrieved-alone"]:
        retrieved = rng.sample(documents, rng.choice([1, 10, 100]))
        for rank, document in enumerate(retrieved):
            # Scores that tie, and such that differ in double precision alone.
            score = rng.choice([1.0, 2.0, 2.0 + 1e-12, -0.5, 0.0, -0.0, rng.random(), 1e30, 1e-40])
            run.append(f"{topic} Q0 {document} {rank} {score!r} tag")
    rng.shuffle(run)
    only_last = [line for line in qrels if line.endswith(" 0") or line.startswith("1 ")]
    unseen = "\n".join(f"q Q0 unseen{i} 1 {i} x" for i in range(3))
    texts = {
        "qrels": "\n".join(qrels),
        # trec_eval takes preferences from judgments above and of 0 alone without reading other memory.
        "qrels.levels": "\n".join(line for line in qrels if not line.endswith("-1")),
        "qrels.none-relevant": "\n".join(only_last),
        "qrels.tabs": "\r\n".join(line.replace(" ", " \t") for line in qrels),
        "groups": "\n".join(groups),
        "prefs": "\n".join(prefs),
        "run": "\n".join(run),
        "run.tabs": "\r\n".join(f"  {line.replace(' ', chr(9))} and more" for line in run) + "\n\n \n",
        "run.unjudged": unseen,
        "run.foreign": "x Q0 d 1 1 t",
        # trec_eval reads behind its memory for a measure or topic beyond the last one.
        "zscores": "\n".join(
            f"{topic} {measure} {rng.random():.4f} {rng.choice([0, 0.1, 0.25])}"
            for topic in [*topics[:-1], "~"]
            for measure in ("map", "P_5", "num_ret", "gm_map", "ndcg", "recip_rank", "num_rel", "~")
        ),
        "qrels.twice": "1 0 a 1\n1 0 a 2",
        "run.twice": "1 Q0 doc-1 1 1 t\n1 Q0 doc-1 1 2 t",
        "qrels.short": "1 0 a",
        "qrels.long": "1 0 a 1 2",
        "run.short": "1 Q0 doc-1 1 1",
        "zscores.short": "1 map 0.5",
        "groups.twice": "1 a d 1\n1 a d 2",
        "prefs.both": "1 a s doc-1 1\n1 a s doc-2 0\n1 a t doc-2 1\n1 a t doc-3 2",
        "prefs.levels": "1 a s doc-1 1\n1 a s doc-1 2",
    }
    for name, text in texts.items():
        end = "" if name in ("qrels.long", "run.unjudged") else "\n"
        (folder / name).write_bytes(f"{text}{end}".encode())
    (folder / "empty").write_bytes(b"")


#: Calls on generated files; a word that is a file's name stands for it.
GENERATED = """
qrels run
-q qrels run
-q -c qrels run
-n -q qrels run
-n qrels run
-m all_trec qrels run
-q -m all_trec qrels run
-q -c -m all_trec qrels run
-q -l2 -m all_trec qrels run
-q -c -l 2 -m all_trec qrels run
-q -l 0 -m all_trec qrels run
-q -l 13 -m all_trec qrels run
-q -M 5 -m all_trec qrels run
-q -M0 -m all_trec qrels run
-q -J -m all_trec qrels run
-J -c -m all_trec qrels run
-J -M 10 -q -m all_trec qrels run
-J -q -m all_trec qrels run.unjudged
-q -m all_trec qrels run.unjudged
-q -m all_trec qrels.none-relevant run
-q -J -c -m all_trec qrels.none-relevant run
-q -m all_trec -m yaap qrels.tabs run.tabs
-m set qrels run
-q -m set -m official qrels run
-m runid qrels run
-q -m num_q qrels run
-m map qrels run
-m gm_map -m gm_bpref -q qrels run
-c -m gm_map -m gm_bpref -m num_q -m num_rel qrels run
-m yaap -q -c qrels run
-m infAP -q qrels run
-q -m relstring qrels run
-q -m relstring.20 qrels run
-q -J -m relstring.7 qrels run
-q -m relstring.0 qrels run
-m relstring qrels run
-q -m set_F.0.5 qrels run
-q -m set_F.3 -m set_F.9 qrels run
-q -m utility.1,-1,0,0 qrels run
-q -N 1000 -m utility.2,-.5,-1,0.01 qrels run
-q -N 1000 -m utility.1,-1,0,0.001 -m num_ret qrels run
-m utility.1,2 qrels run
-q -m iprec_at_recall.0.1 qrels run
-q -m iprec_at_recall.0.123,.5,1,2 qrels run
-q -m 11pt_avg.0.25,0.5,0.75 qrels run
-q -m 11pt_avg.0.75,0.25,1,0 qrels run
-q -J -m 11pt_avg -m iprec_at_recall qrels run.unjudged
-q -m Rprec_mult.0.5,3,0 qrels run
-q -m P.1,7,3 -m recall.9 -m success.2 -m relative_P.4,80 -m map_cut.2 -m ndcg_cut.3,90 qrels run
-q -m P.10,5 -m P.20 qrels run
-q -m ndcg_cut.10,20,23.4 qrels run
-m P.5,5 qrels run
-m P.0 qrels run
-m P.x qrels run
-m P. qrels run
-m map.5 qrels run
-m official.7 qrels run
-q -m ndcg.1=3.5,2=9,4=7.0 qrels run
-q -m ndcg.1=0.5,2=0.7,3=1.4,12=1.2 qrels run
-q -m ndcg.0=1,1=-1 -m G.0=1,1=-1 -m ndcg_rel.1=0 -m Rndcg.2=2 qrels run
-q -m ndcg.-1=0.5,-2=0.25,3=2 -m G.-1=0.5 qrels run
-q -m G.1=2,2=0.5 -m ndcg_rel.1=2,2=4 -m Rndcg.1=2,3=2 qrels run
-q -m ndcg.1=0,2=0,3=0,12=0 -m Rndcg.1=0,2=0,3=0,12=0 qrels run
-m ndcg.1 qrels run
-m ndcg.1=2,3 qrels run
-q -m binG -m G -m ndcg -m ndcg_rel -m Rndcg -m Rprec qrels run
-q -m all_trec -Z zscores qrels run
-q -c -Z zscores qrels run
-Z zscores -m map -m num_ret -m gm_map -m num_rel qrels run
-q -R qrels_jg -m qrels_jg groups run
-q -c -R qrels_jg -m qrels_jg groups run
-q -J -M 20 -R qrels_jg -m qrels_jg groups run
-R qrels_jg -m map_avgjg -m P_avgjg.3 -m Rprec_mult_avgjg.1,0.5 groups run
-l 2 -q -R qrels_jg -m qrels_jg groups run
-q -R qrels_prefs -m all_prefs qrels.levels run
-q -R qrels_prefs -m prefs_simp -m prefs_pair -m prefs_avgjg_ret qrels run
-q -R qrels_prefs -m prefs groups run
-q -M 8 -R qrels_prefs -m all_prefs groups run
-q -R prefs -m all_prefs prefs run
-q -c -R prefs -m all_prefs prefs run
-M 12 -R prefs -m prefs -m prefs_pair_imp prefs run
-R prefs -m runid -m num_q prefs run
-R prefs qrels run
-R prefs prefs run
-m prefs_simp qrels run
-m map_avgjg qrels run
-R qrels_jg -m map groups run
-R qrels_jg -m qrels_jg groups.twice run
-R prefs -m prefs prefs.both run
-R prefs -m prefs prefs.levels run
-R nothing qrels run
-T nothing qrels run
-T trec_results -o -m map qrels run
--measure map --query_eval_wanted --complete_rel_info_wanted qrels run
--level_for_rel 2 --Max_retrieved_per_topic=7 --Judged_docs_only --measure=P.5 --nosummary -q qrels run
--Rel_info_format qrels_prefs --measure prefs --Number_docs_in_coll 5 qrels run
-qcm map -mP.3 qrels run
qrels -q run -m map
-m mapp qrels run
-x qrels run
qrels
qrels nowhere
nowhere run
-Z nowhere qrels run
-Z zscores.short qrels run
qrels empty
empty run
qrels run.foreign
-c qrels run.foreign
-q -c -n qrels run.foreign
qrels.twice run
qrels run.twice
qrels.short run
qrels.long run
qrels run.short
qrels qrels
run run
-D 0.q -q qrels run
-D 0.q -q -c -m all_trec qrels run
-D 0.10 -m official -m set -m yaap qrels run.tabs
-D 1.tópico -q -J -M 7 -m map -m P.3 -m relstring qrels run
-D 0.9 -q -c -Z zscores -m map -m gm_map -m num_rel qrels run
-D .Q -R prefs -q -m all_prefs prefs run
--Debug_level=0.2 -c -m num_q -m num_rel -m runid qrels run
-D 3 -q qrels run
-D 0.nowhere-to-be-found qrels run
-D 0.judged-alone -c qrels run
-D 0. qrels run
-D 0.q qrels run.short
-D
-v
-v qrels
-m mapp -v
"""

#: Calls for help: the text is another, but its stream and the exit status are to be the same.
HELP = """
-h
--help
-h qrels run
-qh qrels
-h -m map -R prefs -T trec_results
-m mapp -h
-m P. -h
-v -h
"""

#: Calls on trec_eval's own test files.
OWN = """
qrels.test results.test
-m all_trec qrels.test results.test
-m all_trec -q qrels.test results.test
-m all_trec -q -c qrels.test results.trunc
-m all_trec -q -c -M100 qrels.test results.trunc
-m all_trec -mrelstring.20 -q -l2 qrels.rel_level results.test
-m all_prefs -q -R prefs prefs.test prefs.results.test
-m all_prefs -q -R qrels_prefs qrels.test results.test
-m qrels_jg -q -R qrels_jg qrels.123 results.test
-q -miprec_at_recall..10,.20,.25,.75,.50 -m P.5,7,3 -m recall.20,2000 -m Rprec_mult.5.0,0.2,0.35 \
-mutility.2,-1,0,0 -m 11pt_avg..25,.5,.75 -mndcg.1=3,2=9,4=4.5 -mndcg_cut.10,20,23.4 -msuccess.2,5,20 \
qrels.test results.test
-q -m all_trec -Z zscores_file qrels.test results.test
-q -J -m all_trec qrels.test results.test
-q -J -m all_trec -l 2 qrels.rel_level results.trunc
-m official -m yaap -q -c -l 3 qrels.rel_level results.trunc
-q -M 20 -R prefs -m all_prefs prefs.test prefs.results.test
-q -c -R qrels_jg -m qrels_jg qrels.123 results.trunc
"""


def calls(text: str, folder: Path) -> Iterator[list[str]]:
    """Arguments, of which those that name a file in the folder are its path."""
    names = {path.name for path in folder.iterdir()} | {"nowhere"}
    for line in text.replace("\\\n", "").split("\n"):
        if line.strip():
            words = line.split()
            values = {
                i + 1
                for i, word in enumerate(words)
                if word in ("-m", "-R", "--measure", "--Rel_info_format")
            }
            yield [
                str(folder / word) if word in names and i not in values else word
                for i, word in enumerate(words)
            ]


def difference(mine: Outcome, theirs: Outcome, *, texts: bool) -> str | None:
    """How two outcomes differ: in exit status or bytes; without ``texts``, in whether there are any."""
    if mine.status != theirs.status:
        return f"status {mine.status} against {theirs.status}"
    if not texts:
        ours, others = ([bool(outcome.printed), bool(outcome.errors)] for outcome in (mine, theirs))
        return f"output and errors: {ours} against {others}" if ours != others else None
    if mine.printed == theirs.printed:
        return None
    pairs = zip(mine.printed.split(b"\n"), theirs.printed.split(b"\n"), strict=False)
    return next((f"{x!r} against {y!r}" for x, y in pairs if x != y), "as far as both go, the same")


def compare(trec_eval: str, seed: int = 0) -> tuple[int, list[str]]:
    """How many calls were made, and what differed."""
    differences = []
    with tempfile.TemporaryDirectory() as temporary:
        generate(Path(temporary), seed)
        every = [(arguments, True) for arguments in calls(GENERATED, Path(temporary))]
        every += [(arguments, False) for arguments in calls(HELP, Path(temporary))]
        own = Path(trec_eval).resolve().parent / "test"
        if (own / "qrels.test").exists():
            every += [(arguments, True) for arguments in calls(OWN, own)]
        for arguments, texts in every:
            found = difference(call_ours(arguments), call_theirs(trec_eval, arguments), texts=texts)
            if found:
                words = " ".join(Path(a).name if a.startswith("/") else a for a in arguments)
                differences.append(f"{words}: {found}")
    return len(every), differences


def main() -> None:
    """Print what differs, and how many calls are equal."""
    trec_eval = binary()
    if trec_eval is None:
        sys.exit("trec_eval is neither named by TREC_EVAL nor on the path")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="generate files N times")
    total, differences = 0, []
    for seed in range(parser.parse_args().seeds):
        calls_made, found = compare(trec_eval, seed)
        total += calls_made
        differences += [f"seed {seed}: {difference}" for difference in found]
    for difference in differences:
        print(difference)
    print(f"{total - len(differences)} of {total} calls are equal in bytes and exit status")
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
