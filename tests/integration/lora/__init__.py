"""LoRAs composed on a stand-in of a pipeline; tests/predictors has the real ones."""
