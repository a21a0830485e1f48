"""The checks, by what they look at. Each measures and leaves the verdict to `judge`."""
