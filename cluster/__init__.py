"""Ray: the session, the workers that keep the base model, the searcher that feeds Ray Tune."""

import gc

# Here, since it is the first of our modules that a worker process imports: imports make objects and no garbage, and
# looking for it takes a sixth of the seconds in which a worker starts.
gc.set_threshold(100_000, 20, 20)
