"""The metrics, one per file: each turns pairs into columns with one value per pair."""
