"""What is minimized: statistics of style, losses, matched features, and the objective that adds them up."""
