"""A run on storage: its folder, and the manifests by which partitions are committed to it."""
