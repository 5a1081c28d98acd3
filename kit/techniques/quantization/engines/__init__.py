"""What runs a model, and proves in which precision it did."""
