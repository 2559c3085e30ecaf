"""Whether a pretrained model can be used, check by check."""
