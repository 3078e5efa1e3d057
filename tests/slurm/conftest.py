"""The test bed as a fixture."""

from bed import bed  # noqa: F401
