"""Tests against real torch, diffusers and Cog; `make test-predictors` runs them."""
