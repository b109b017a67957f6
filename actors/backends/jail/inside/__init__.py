"""What runs beside the user's program, behind the same walls; it is hostile as soon as the program is."""
