"""Which modules should a LoRA adapter target? Specification, study, catalog, tracking and the command line."""
