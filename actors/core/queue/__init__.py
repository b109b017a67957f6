"""Who gets which sandbox, and when."""
