# The program, for every service of docker-compose.yml but the database and the S3 store.
FROM python:3.11.14-slim-bookworm
RUN useradd --create-home --uid 10001 search && install -d -o search -g search /var/lib/search
WORKDIR /opt/search
# What it depends on is gigabytes, and a layer of its own: a change of our code leaves it as it is.
COPY pyproject.toml ./
RUN touch README.md LICENSE && pip install --no-cache-dir ".[api,postgres,s3]"
COPY README.md LICENSE ./
COPY search search
COPY objectives objectives
COPY cluster cluster
COPY dashboards dashboards
RUN pip install --no-cache-dir --no-deps --force-reinstall .
USER search
WORKDIR /home/search
ENV PYTHONUNBUFFERED=1
CMD ["python", "-m", "search", "--help"]
