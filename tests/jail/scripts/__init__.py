"""Scripts that tests run in processes of their own, since what they do or suffer cannot be undone."""
