"""Data sets, augmentation, losses; the commands train, evaluate and export."""
