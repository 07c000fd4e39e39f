"""Makes PyTorch use deterministic algorithms."""

import os

import torch


def make_deterministic() -> None:
    """For everything this process computes from now on. An operation without such an algorithm raises RuntimeError."""
    # cuBLAS reads it when it is first used: with workspaces of one size its sums are always in one order.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
