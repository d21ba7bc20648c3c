"""Regions: where each painting is used, and how much of the photo is kept."""
