"""Storage: a folder at any fsspec URI, its errors, and URIs as people write them."""
