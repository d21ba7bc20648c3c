"""The memory of a painting: what is free, what a painting needs, and how it is made to fit."""
