"""The parts of a run, each a module with one function that measures and returns what results have of it."""
