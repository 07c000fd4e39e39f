"""Storage: a folder at any fsspec URI, what it can fail with, and locations as people spell them."""
