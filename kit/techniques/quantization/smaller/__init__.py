"""What makes a model smaller: precisions and how they are calibrated, and pruning."""
