"""Whether a program prints the same every time, judged from its syntax alone."""
