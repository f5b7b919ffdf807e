"""A store after any sequence of changes, crashes and reopenings is what a dict would be."""

import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from optical_rs import InputError
from optical_rs.similarity import TokenStore


class Crash(BaseException):
    """The process ends here: nothing after it is done but what the system does by itself."""


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=3)


class Stores(RuleBasedStateMachine):
    """Two objects of one store, a dict of what it should hold, and snapshots with what they should keep."""

    snapshots = Bundle("snapshots")

    @initialize(dtype=st.sampled_from(["float32", "float16", "bfloat16"]))
    def create(self, dtype):
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        self.store = TokenStore.create(self.folder / "store", 2, dtype=dtype)
        self.other = TokenStore(self.folder / "store")
        self.model: dict[str, tuple[int, int]] = {}
        self.count = 0

    def teardown(self):
        shutil.rmtree(self.folder)

    def texts(self, ids):
        """Tokens that differ from text to text; quarters are exact in every form."""
        self.count += 1
        return {name: ((i + self.count) % 4, self.count % 64) for i, name in enumerate(ids)}

    def tokens(self, text):
        return np.full((text[0], 2), text[1] / 4, np.float32)

    @rule(ids=st.lists(NAMES, unique=True, max_size=3), through=st.booleans())
    def append(self, ids, through):
        new = self.texts([name for name in ids if name not in self.model])
        store = self.store if through else self.other
        store.append([self.tokens(t) for t in new.values()], list(new), [str(t) for t in new.values()])
        self.model |= new

    @rule(ids=st.lists(NAMES, unique=True, min_size=1, max_size=3))
    def append_again(self, ids):
        if any(name in self.model for name in ids):
            with pytest.raises(InputError, match="is in the store already"):
                self.store.append([np.ones((1, 2))] * len(ids), ids)

    @rule(ids=st.lists(NAMES, unique=True, max_size=3), through=st.booleans())
    def replace(self, ids, through):
        new, gone = self.texts(ids), [*sorted(self.model)[1:2], *(n for n in ids if n in self.model)]
        (self.store if through else self.other).append(
            [self.tokens(t) for t in new.values()], ids, [str(t) for t in new.values()], replacing=gone
        )
        for name in gone:
            self.model.pop(name, None)
        self.model |= new

    @rule(data=st.data(), through=st.booleans())
    def delete(self, data, through):
        if self.model:
            gone = data.draw(st.lists(st.sampled_from(sorted(self.model)), unique=True, max_size=3))
            (self.store if through else self.other).delete(gone)
            for name in gone:
                del self.model[name]

    @rule(through=st.booleans())
    def compact(self, through):
        (self.store if through else self.other).compact()

    @rule()
    def reopen(self):
        self.store = TokenStore(self.folder / "store")

    @rule(target=snapshots)
    def look(self):
        self.store = TokenStore(self.folder / "store")
        return multiple((self.store.snapshot(), dict(self.model)))

    @rule(seen=consumes(snapshots))
    def look_again(self, seen):
        self.compare(*seen)

    @rule(
        after=st.integers(0, 12),
        ids=st.lists(NAMES, unique=True, min_size=1, max_size=3),
        what=st.integers(0, 3),
    )
    def crash(self, after, ids, what):
        """Crash at one of the moments at which something reaches the disk: before or after it does."""
        new = self.texts([name for name in ids if name not in self.model])
        gone = sorted(self.model)[:2]
        changes = [
            lambda: self.store.append(
                [self.tokens(t) for t in new.values()], list(new), [str(t) for t in new.values()]
            ),
            lambda: self.store.delete(gone),
            self.store.compact,
            lambda: self.store.append(
                [self.tokens(t) for t in new.values()],
                list(new),
                [str(t) for t in new.values()],
                replacing=gone,
            ),
        ]
        if what == 3:
            new |= self.texts(gone)
        calls = {"left": after}
        real = {name: getattr(os, name) for name in ("fsync", "replace", "truncate", "unlink")}

        def counted(name):
            def call(*arguments, **options):
                if calls["left"] <= 0:
                    raise Crash
                calls["left"] -= 1
                return real[name](*arguments, **options)

            return call

        with pytest.MonkeyPatch.context() as patch:
            for name in real:
                patch.setattr(os, name, counted(name))
            try:
                changes[what]()
                crashed = False
            except Crash:
                crashed = True
        before, after_change = dict(self.model), dict(self.model)
        if what == 1:
            for name in gone:
                del after_change[name]
        elif what != 2:
            after_change |= new
        self.store = TokenStore(self.folder / "store")
        held = {n: self.store.contents[i] for i, n in enumerate(self.store.ids) if not self.store.deleted[i]}
        old, done = ({name: str(text) for name, text in m.items()} for m in (before, after_change))
        assert held in (done, old) if crashed else held == done
        self.model = after_change if held == done else before

    @invariant()
    def the_store_is_the_dict(self):
        if hasattr(self, "model"):
            self.compare(TokenStore(self.folder / "store"), self.model)

    def compare(self, store, model):
        store.verify()
        live = {name: i for i, name in enumerate(store.ids) if not store.deleted[i]}
        assert live.keys() == model.keys()
        for name, i in live.items():
            assert (store.index(name), name in store) == (i, True)
            assert np.array_equal(store[i], self.tokens(model[name]))
            assert store.contents[i] == str(model[name])
        order = [store.ids[i] for i in np.argsort(store.places) if store.places[i] >= 0]
        assert order == sorted(model, key=str.encode)


Stores.TestCase.settings = hypothesis.settings(max_examples=30, stateful_step_count=20, deadline=None)
TestStores = Stores.TestCase
