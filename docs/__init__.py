"""Documentation, and what generates parts of it (`docs/generate.py`)."""
