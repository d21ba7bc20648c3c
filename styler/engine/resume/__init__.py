"""Going on with a painting after its process has ended: `state` is what is saved, `file` its form on disk."""
