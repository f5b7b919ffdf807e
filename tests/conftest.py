"""Shared fixtures: tiny real models and texts, made on the spot."""

import importlib.util
import json
import os
import tempfile
from pathlib import Path

import hypothesis
import pytest

# Nothing here may reach out: what is not on this machine is an error, at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

hypothesis.settings.register_profile("default", deadline=None, max_examples=40, print_blob=True)
hypothesis.settings.load_profile("default")

PAIRS = [
    ("moto uli pa moto", "the fire is on the fire"),
    ("madzi ali mu mtsuko", "the water is in the jar"),
    ("mwana akuwerenga buku", "the child reads a book"),
    ("galu akuthamanga msanga", "the dog runs fast"),
    ("mayi akuphika nsima", "mother cooks porridge"),
    ("dzuwa likuwala lero", "the sun shines today"),
    ("mvula inagwa dzulo", "rain fell yesterday"),
    ("munthu akugulitsa nsomba", "a person sells fish"),
    ("sukulu ili kutali", "the school is far"),
    ("tinapita ku msika", "we went to the market"),
    ("nyumba ndi yaikulu", "the house is big"),
    ("iye amakonda kuimba", "she likes to sing"),
]


def needs(*modules):
    """Skip a test where modules are missing.

    They are found, not imported: kolibri puts old versions of other libraries in front of them on ``sys.path``.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """A cache folder of the tests' own; converted models, which take half a gigabyte, are shared."""
    from optical_rs.data.cache import cache_folder

    real = cache_folder()
    folder = tmp_path_factory.mktemp("cache")
    (folder / "optical_rs").mkdir()
    for model in real.glob("*-e5-small-*"):
        (folder / "optical_rs" / model.name).symlink_to(model)
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def pairs():
    """A dozen Chichewa and English sentences."""
    return PAIRS


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    """A folder with a one-layer BERT and a word-level tokeniser over the test's own words."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = sorted({w for pair in PAIRS for text in pair for w in text.split()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "query", "passage", ":"]
    vocabulary = {w: i for i, w in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder = tmp_path_factory.mktemp("tiny")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=32,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def deep_encoder(tiny_encoder, tmp_path_factory):
    """A folder with a BERT of four layers and the tiny encoder's tokenizer."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("deep")
    transformers.AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(folder)
    config = transformers.AutoConfig.from_pretrained(tiny_encoder)
    config.num_hidden_layers = 4
    torch.manual_seed(0)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def teacher(tiny_encoder):
    """A late-interaction model of dimension 8 on the tiny encoder."""
    from optical_rs.models import late_interaction

    return late_interaction(
        tiny_encoder,
        8,
        fit_on=[e for _, e in PAIRS] * 2,
        prompts={"query": "query : ", "document": "passage : "},
        device="cpu",
    )


@pytest.fixture(scope="session")
def m2m100(tmp_path_factory):
    """A folder with a tiny M2M100 of random weights, and its own tokenizer over a vocabulary made here."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    spm = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("m2m100")
    (folder / "text").write_text("\n".join(text for pair in PAIRS for text in pair), encoding="utf-8")
    spm.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "spm"), vocab_size=60, hard_vocab_limit=False
    )
    pieces = spm.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    names = [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]
    vocabulary = {piece: i for i, piece in enumerate([*special, *(n for n in names if n not in special)])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    tokenizer = transformers.M2M100Tokenizer(
        vocab_file=str(folder / "vocab.json"), spm_file=str(folder / "spm.model")
    )
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = transformers.M2M100Config(
        vocab_size=max(tokenizer.lang_code_to_id.values()) + 1,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
    )
    transformers.M2M100ForConditionalGeneration(config).eval().save_pretrained(folder / "model")
    return str(folder / "model")


@pytest.fixture
def store(teacher, tmp_path):
    """The teacher's tokens of the English sentences."""
    from optical_rs.token_cache import TokenCache

    return TokenCache(teacher, tmp_path / "tokens").tokens([e for _, e in PAIRS], "query")


@pytest.fixture
def bitext_file(tmp_path):
    """The sentences as a TSV file."""
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"{f}\t{e}\n" for f, e in PAIRS), encoding="utf-8")
    return file


@pytest.fixture
def collection_folder(tmp_path):
    """A TREC-style collection: each Chichewa sentence asks for its translation."""
    folder = tmp_path / "collection"
    folder.mkdir()
    (folder / "queries.tsv").write_text("".join(f"q{i}\t{f}\n" for i, (f, _) in enumerate(PAIRS)))
    (folder / "documents.tsv").write_text("".join(f"d{i}\t{e}\n" for i, (_, e) in enumerate(PAIRS)))
    (folder / "qrels.txt").write_text("".join(f"q{i} 0 d{i} 1\n" for i in range(len(PAIRS))))
    return folder


def tool(name):
    """A module of ``tools``."""
    file = Path(__file__).parents[1] / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def torture():
    """The module whose scenarios ``make torture`` runs at length."""
    return tool("torture")


@pytest.fixture(scope="session")
def kill_index():
    """The module that kills ``optical-rs index``."""
    return tool("kill_index")


@pytest.fixture
def shared_memory():
    """A folder in memory where there is one: what is killed are processes, not the machine."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def unprivileged(torture):
    """Runs a function in a child whom the system refuses what permissions refuse: root is another user there."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork and users")

    def run(folder, work):
        def child():
            if os.geteuid() == 0:
                os.setuid(65534)
            work()

        places = [folder, *folder.parents]
        modes = [place.stat().st_mode for place in places]
        try:
            if os.geteuid() == 0:  # another user may come as far as the folder
                for place in places[1:-1]:
                    place.chmod(place.stat().st_mode | 0o055)
            folder.chmod(0o555)
            assert os.waitpid(torture.forked(child), 0)[1] == 0
        finally:
            for place, mode in zip(places, modes, strict=True):
                if place.stat().st_mode != mode:
                    place.chmod(mode)

    return run


@pytest.fixture
def texts():
    """Tokens of four texts, one of them without any."""
    np = pytest.importorskip("numpy")
    rng = np.random.default_rng(0)
    return [rng.normal(size=(n, 5)).astype(np.float32) for n in (3, 0, 7, 1)]


@pytest.fixture(scope="session")
def exported(teacher, tmp_path_factory):
    """A folder with both precisions of the teacher, and what its edge.json says."""
    from optical_rs.edge.export import export

    folder = tmp_path_factory.mktemp("edge") / "model"
    config = export(teacher, folder, precisions=["float32", "int8"])
    return folder, config


@pytest.fixture(scope="session")
def documents(pairs):
    """The English sentences by id."""
    return {f"d{i}": english for i, (_, english) in enumerate(pairs)}


@pytest.fixture(scope="session")
def pieces_model(pairs, tmp_path_factory):
    """A late-interaction model whose tokenizer can be trimmed: WordPiece over the words and their characters."""
    transformers = pytest.importorskip("transformers")
    from optical_rs.models import late_interaction
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = sorted({w for pair in pairs for text in pair for w in text.split()})
    letters = sorted({c for w in words for c in w})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    names = dict.fromkeys([*special, *letters, *(f"##{c}" for c in letters), *words])
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder = tmp_path_factory.mktemp("pieces")
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, mask_token="[MASK]", model_max_length=64, **named
    ).save_pretrained(folder)
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return late_interaction(str(folder), 8, fit_on=[e for _, e in pairs] * 2, device="cpu")


@pytest.fixture
def interrupted(monkeypatch):
    """Calls a function that trains, and interrupts it after the first checkpoint at which a condition holds."""
    from optical_rs.training import fit

    own = fit.Checksums.on_save

    def run(train, when):
        def stop(self, args, state, control, **kwargs):
            own(self, args, state, control, **kwargs)
            if when(state):
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(fit.Checksums, "on_save", stop)
            with pytest.raises(KeyboardInterrupt):
                train()

    return run
