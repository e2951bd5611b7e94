"""What a researcher brings, and what we have ready for it."""
