"""Forms of collections other than plain pictures and tables: how each is recognized, planned and read."""
