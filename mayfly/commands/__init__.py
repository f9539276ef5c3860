"""One module for each group of commands. A command reads its options, has the work done elsewhere, and prints."""
