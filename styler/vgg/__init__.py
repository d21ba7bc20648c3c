"""The VGG family: its table, its weights, and its frozen features."""
