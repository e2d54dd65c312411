"""What runs inside a job, and its aftermath."""
