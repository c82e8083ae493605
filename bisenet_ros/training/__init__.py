"""Data sets, augmentation, losses; the commands train, evaluate, export and render_street."""
