"""A run as it stands on storage: its folder, and the manifests by which partitions are committed to it."""
