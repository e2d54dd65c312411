"""Tuning: fitting the times and coefficients of a sampler to one network (docs/math.md section 7.5)."""
