"""Settings of these tests: the machine may be busy, so no example has a deadline."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("api", deadline=None)
settings.load_profile("api")
