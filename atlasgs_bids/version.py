"""The version, which pyproject.toml and the Dockerfile read."""

__version__ = "0.1.0"
