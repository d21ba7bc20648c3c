"""What one does with the network itself: inspect, slim, distill, quantize, export, compare and diagnose it."""
