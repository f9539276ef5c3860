"""The fronts: each translates one system's paths and words to (function, request). None of them has a way of its own to run code."""
