"""Ray: the session, the workers that keep the base model, the searcher that feeds Ray Tune."""
