"""Judgments and runs that bring measures to their edges, for the tests of this folder."""

import hypothesis
from hypothesis import strategies as st

#: pytrec_eval's families, with parameters, and the measures that they bring.
FAMILIES = {
    "map", "gm_map", "ndcg", "recip_rank", "Rprec", "bpref", "infAP", "11pt_avg", "utility", "num_ret",
    "num_rel", "num_rel_ret", "num_nonrel_judged_ret", "set_P", "set_recall", "set_relative_P", "set_map",
    "set_F", "iprec_at_recall", "Rprec_mult", "ndcg_cut.5,10", "P.5,10", "recall.5,100", "map_cut.1,5",
    "success.1,5", "relative_P.3,100",
}  # fmt: skip
MEASURES = [
    *(family for family in sorted(FAMILIES) if "." not in family and family not in ("iprec_at_recall", "Rprec_mult")),
    *(f"iprec_at_recall_{i / 10:.2f}" for i in range(11)),
    *(f"Rprec_mult_{i / 5:.2f}" for i in range(1, 11)),
    "ndcg_cut_5", "ndcg_cut_10", "P_5", "P_10", "recall_5", "recall_100", "map_cut_1", "map_cut_5",
    "success_1", "success_5", "relative_P_3", "relative_P_100",
]  # fmt: skip
COUNTS = {"num_ret", "num_rel", "num_rel_ret", "num_nonrel_judged_ret", "utility", "success_1", "success_5"}

ids = st.sampled_from(["d1", "d2", "d3", "d4", "d10", "D1", "é", "x-1", "x_1", "zz"])
topics = st.sampled_from(["1", "2", "10", "q", "Q"])
# Few distinct scores make ties; neighbours that only a double tells apart must tie as well.
scores = st.sampled_from([0.0, -0.0, 1.0, 1.0 + 1e-12, -3.5, 1e-40, 1e30, 0.1, 0.2]) | st.floats(-1e6, 1e6)
qrels = st.dictionaries(topics, st.dictionaries(ids, st.integers(0, 4), min_size=1), min_size=1)
signed = st.dictionaries(topics, st.dictionaries(ids, st.integers(-2, 4), min_size=1), min_size=1)
runs = st.dictionaries(topics, st.dictionaries(ids, scores, min_size=1), min_size=1)


def assume_common(qrels, run):
    """Without a common topic there is nothing to evaluate."""
    hypothesis.assume(qrels.keys() & run.keys())


def as_rows(topics):
    return [(t, d, v) for t, docs in topics.items() for d, v in docs.items()]
