"""The HTTP API: ``python -m search serve``. FastAPI and uvicorn are imported nowhere else."""
