"""Published sources of bitext, collections and question–passage pairs: a file each, declared in one dictionary."""

import os

from . import (
    africlirmatrix,
    afriqa,
    belebele,
    bible,
    ciral,
    english_pairs,
    flores,
    irds,
    kolibri,
    mafand,
    menyo,
    ntrex,
    tico,
    trec,
)
from .source import SIDES, SPLITS, Repository, Source

__all__ = ["SIDES", "SOURCES", "SPLITS", "Repository", "Source", "find", "verify"]

#: Every source by its name.
SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        *(
            kolibri.SOURCE,
            bible.SOURCE,
            mafand.SOURCE,
            menyo.SOURCE,
            tico.SOURCE,
            ntrex.SOURCE,
            flores.SOURCE,
        ),
        *(afriqa.SOURCE, ciral.SOURCE, africlirmatrix.SOURCE, belebele.SOURCE, irds.SOURCE, trec.SOURCE),
        *english_pairs.SOURCES,
    )
}


def find(spec: str) -> tuple[Source, str] | None:
    """The source that a spec names, and what follows its name; None for files and folders."""
    name, colon, rest = spec.partition(":")
    if name not in SOURCES or (not colon and os.path.exists(spec)):
        return None
    return SOURCES[name], rest


def verify(name: str) -> dict[str, str]:
    """Compare the files of a source on this machine with the revision that is pinned.

    Parameters
    ----------
    name : str
        A source's name, such as ``"afriqa"``.

    Returns
    -------
    dict of str to str
        ``"as pinned"``, ``"differs"`` or ``"missing"``, by path below :func:`~optical_rs.data.cache.data_folder`.
        A checkout of another revision may be used; results from it are not comparable with published ones.

    Raises
    ------
    InputError
        For an unknown source, or one whose files have no published checksums.
    """
    from ...errors import InputError, closest

    if name not in SOURCES:
        raise InputError(f"no source '{name}'{closest(name, SOURCES)}")
    found = {
        f"{repository.folder}/{path}": state
        for repository in SOURCES[name].repositories
        for path, state in repository.verify().items()
    }
    if not found:
        raise InputError(f"{name}: none of its files has a pinned checksum")
    return found
