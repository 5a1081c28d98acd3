"""What several techniques share: parameter checks, readers, datasets, models, services and a disk cache."""
