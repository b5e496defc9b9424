import os
import pickle

import pytest

from common.recent import Recent


def test_the_last_few_are_kept_and_the_others_made_anew():
    made, recent = [], Recent(2)
    for key in "aabacab":
        assert recent.get(key, lambda key=key: made.append(key) or key.upper()) == key.upper()
        assert len(recent) <= 2
    assert "".join(made) == "abcb"


def test_another_process_starts_empty(monkeypatch):
    recent = Recent(2)
    recent.get("a", lambda: 1)
    assert len(pickle.loads(pickle.dumps(recent))) == 0
    forked = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: forked)
    assert recent.get("a", lambda: 2) == 2


def test_it_needs_room():
    with pytest.raises(ValueError, match="at least one, got 0"):
        Recent(0)
