"""Having PyTorch take algorithms that give the same bits every time."""

import os

import torch


def make_deterministic() -> None:
    """For all that this process computes from here on. An operation that has no such algorithm raises RuntimeError."""
    # cuBLAS reads it when it is first used: with workspaces of one size its sums are always in one order.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
