"""The lab: measures how well the method works on the miniature's world, where every edit has an exact truth."""
