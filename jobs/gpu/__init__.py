"""What `accelerator.py` measures, and with what. It needs no more than that file says."""
