"""Distributed training compared: one model, one data set and one batch, spread over devices in many ways."""
