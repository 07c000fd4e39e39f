"""The lab: what the method is worth, measured on the miniature's world, where every edit has an exact truth."""
