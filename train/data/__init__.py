"""Cases as batches: preprocessing, the dataset, augmentation, the order of an epoch."""
