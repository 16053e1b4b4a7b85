"""What every TopologyStore must do, in a file or in an etcd: subclass it, and make stores."""

from __future__ import annotations

import pytest

from arktos_ray.actors.topology import TopologyStore
from arktos_ray.api.errors import Unavailable
from arktos_ray.tenancy.topology import fitted


class TopologyStoreContract:
    def made(self) -> TopologyStore:
        """Another process's view of the one place of this test."""
        raise NotImplementedError

    def spoil(self) -> None:
        """What is kept cannot be read any more."""
        raise NotImplementedError

    def cut(self) -> None:
        """From here on nothing can be read or written there."""
        raise NotImplementedError

    def test_nothing_is_kept_at_first(self) -> None:
        assert self.made().load() is None

    def test_what_was_saved_is_there_for_everybody_who_starts(self) -> None:
        store = self.made()
        store.load()
        first = fitted(None, 2, 2, 100, "kubemark", zones=("a", "b"))
        store.save(first)
        assert self.made().load() == first

        second = first.added("tenant", "1", "a").drained("tp-2")
        store.save(second)
        assert self.made().load() == second

    def test_who_takes_over_goes_on_with_what_is_kept(self) -> None:
        first = self.made()
        first.load()
        first.save(fitted(None, 1, 1, 0, "kubemark"))

        second = self.made()
        kept = second.load()
        assert kept is not None
        second.save(kept.added("resource"))
        found = self.made().load()
        assert found is not None
        assert found.names("resource") == ("rp-1", "rp-2")

    def test_what_cannot_be_read_is_not_taken_for_nothing(self) -> None:
        store = self.made()
        store.load()
        store.save(fitted(None, 1, 1, 0, "kubemark"))
        self.spoil()
        with pytest.raises(Unavailable, match="topology"):
            self.made().load()

    def test_a_place_that_is_away_says_so(self) -> None:
        store = self.made()
        store.load()
        self.cut()
        with pytest.raises(Unavailable):
            store.save(fitted(None, 1, 1, 0, "kubemark"))
