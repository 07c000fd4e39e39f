"""What people look at: the report of a run, two runs beside one another, and tables of their own."""
