"""What runs inside a job, and what follows its end."""
