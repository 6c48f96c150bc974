"""Runs steps that AOTInductor packaged. Needs torch, nothing of the compiler; opened where one is asked for."""

from tierwise.training.torch_backend._packaged import PackagedEngine

__all__ = ["PackagedEngine"]
