"""``optical-rs index``: documents as a store of tokens, ready to be searched."""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, require
from ..files import named
from ..progress import progress_bar, say
from .inspect import DTYPES
from .options import Parser


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser(
        "index",
        "Encode documents into a store, or add those that a store does not have yet.",
        {"--out": "--output", "--output_dir": "--output"},
    )
    parser.add_argument("--model", required=True, help="the exported model that encodes documents")
    parser.add_argument(
        "--documents", required=True, help="a file of lines 'id<TAB>text' or of JSON, or a collection"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="STORE", help="a new store, or one to add to"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="form of the stored tokens (default: that of the store; for a new one int8)",
    )
    parser.add_argument("--window", type=int, help="cut documents into pieces of this number of tokens")
    parser.add_argument("--overlap", type=int, default=0, help="tokens that neighbouring pieces share")
    parser.add_argument(
        "--first_stage",
        choices=("auto", "none", "mean", "pooling", "muvera"),
        default="auto",
        help="also make a first stage of search, STORE.coarse, for large collections, or remove it; auto: mean from 8 million "
        "tokens on; one that exists is brought up to date",
    )
    parser.add_argument(
        "--pool",
        type=int,
        metavar="FACTOR",
        help="tokens for one token of the first stage pooling (default: 4); implies it",
    )
    parser.add_argument(
        "--precision",
        choices=("int8", "float32", "auto"),
        help="precision of the model's weights; auto: for a new store the faster on this machine, so that machines may "
        "differ (default: that of the store; for a new one int8 if the model has it)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        help="threads of the model, on which the result does not depend (default: one for each core; with ray one for "
        "each block)",
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="who encodes: this process, or the machines of a Ray cluster",
    )
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="the cluster of --engine ray (default: one on this machine alone)",
    )
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command ``optical-rs index``."""
    options = build_parser().parse_args(arguments)
    require("onnxruntime", "edge")
    from ..data import stream_documents
    from ..edge import Encoder
    from ..edge.encoder import fastest_encoder
    from ..edge.index import (
        LARGE,
        coarse_of,
        encoder_of,
        first_stage_of,
        index,
        remove_first_stage,
        update_first_stage,
    )
    from ..edge.shards import Kept, shards_of
    from ..similarity import Mean, columns

    options.output = named(options.output, "--output")
    # Before anything is encoded:
    method, encode = _method(options), _encode(options)
    old = first_stage_of(options.output)
    documents = stream_documents(options.documents)
    made_by = encoder_of(options.output)
    # A store of an older version does not say in which precision it was made; that was the default of Encoder.
    new = not columns.holds_store(options.output)
    if (options.precision == "auto" and new) or (options.precision in (None, "auto") and made_by):
        sample = [text for _, text in itertools.islice(documents, 64)]
        encoder = fastest_encoder(options.model, sample, threads=options.threads, content=made_by)
    else:
        precision = None if options.precision == "auto" else options.precision
        encoder = Encoder(options.model, precision=precision, threads=options.threads)
    where = f"adding to {options.output}" if options.output.exists() else f"into {options.output}"
    say(
        f"encoding {len(documents)} documents of {options.documents} by {options.model} in {encoder.precision}, {where}"
    )
    with progress_bar("encoding", "document") as progress:
        store = index(
            encoder,
            documents,
            options.output,
            dtype=options.dtype,
            window=options.window,
            overlap=options.overlap,
            encode=encode,
            progress=progress,
        )
    Kept(shards_of(options.output)).clear()  # of a run on a cluster that was not finished there
    if options.first_stage == "none":
        remove_first_stage(store)
    elif method is not None or old is not None or store.inspect()["tokens"] >= LARGE:
        say(f"making the first stage, {coarse_of(options.output)}")
        with progress_bar("first stage", "text") as progress:
            coarse = update_first_stage(store, Mean() if method is None and old is None else method, progress)
        shown = coarse.inspect()
        print(f"{coarse.path}: {coarse.metadata['coarse']}, {shown['bytes'] / 1e6:.1f} MB")
    found = store.inspect()
    print(
        f"{options.output}: {len(documents)} documents, {found['tokens']} tokens, {found['bytes'] / 1e6:.1f} MB "
        f"({found['bytes_per_token']:.0f} bytes a token)"
    )


def _encode(options: argparse.Namespace) -> Any:
    """Who encodes."""
    from ..edge.shards import encode_here, shards_of

    if options.engine == "local":
        if options.address is not None:
            raise InputError("--address: is of --engine ray")
        return encode_here
    from ..edge.cluster import on_ray

    threads = 1 if options.threads is None else options.threads
    return on_ray(options.address, kept=shards_of(options.output), threads=threads)


def _method(options: argparse.Namespace) -> Any:
    """The first stage that options ask for, if they do."""
    from ..similarity import Mean, Muvera, Pooling

    if options.pool is not None and options.first_stage not in ("auto", "pooling"):
        raise InputError(f"--pool: is of the first stage pooling, got {options.first_stage}")
    if options.pool is not None or options.first_stage == "pooling":
        return Pooling(4 if options.pool is None else options.pool)
    methods = {"mean": Mean, "muvera": Muvera}
    return methods[options.first_stage]() if options.first_stage in methods else None
