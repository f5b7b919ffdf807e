"""What loading a model prints."""

import logging

import pytest
from optical_rs.models import late_interaction
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


def test_other_missing_weights_are_reported(reports):
    rows = ["pooler.dense.bias | MISSING |", "encoder.layer.0.output.dense.weight | MISSING |"]
    logger = logging.getLogger("transformers.modeling_utils")
    with without_pooler_reports():
        logger.warning("BertModel LOAD REPORT from: x\n" + rows[0])
        logger.warning("BertModel LOAD REPORT from: x\n" + "\n".join(rows))
        logger.warning("something else")
    logger.warning("BertModel LOAD REPORT from: x\n" + rows[0])
    assert [text.count("|") for text in reports] == [4, 0, 2]
