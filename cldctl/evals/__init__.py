"""Many evaluations as one: every kept checkpoint, sweeps over settings, runs side by side."""
