"""Forms of collections beside plain pictures and tables: how each is recognized, planned and read."""
