"""The reference model in plain torch: the truth that every export is compared with."""
