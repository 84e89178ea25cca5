# The program, for every service of docker-compose.yml but the database and the S3 store.
FROM python:3.11.14-slim-bookworm
RUN useradd --create-home --uid 10001 search && install -d -o search -g search /var/lib/search
WORKDIR /opt/search
COPY pyproject.toml README.md LICENSE ./
COPY search search
COPY objectives objectives
COPY cluster cluster
COPY dashboards dashboards
RUN pip install --no-cache-dir ".[api,postgres,s3]"
USER search
WORKDIR /home/search
ENV PYTHONUNBUFFERED=1
CMD ["python", "-m", "search", "--help"]
