"""From a trained FP32 model to what to deploy: engines, precisions and pruning, each with its accuracy beside it."""
