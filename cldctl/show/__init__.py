"""What people see: tables, progress, and the two consoles."""
