"""What one placement is worth: its latency, its training, its accuracy. Imports nothing from the other packages."""
