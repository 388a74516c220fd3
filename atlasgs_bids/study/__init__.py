"""The paper's experiments: simulated slices with a known truth."""
