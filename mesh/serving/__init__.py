"""What user code imports."""
