"""Programs around the package: the demonstration, the benchmark, the origin both download from."""
