# The guard as an endpoint, without torch: it stands before a model server. Build: docker build -t vlmguard .
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY langchain_vlmguard langchain_vlmguard
COPY vlmguard_lab vlmguard_lab
RUN python -m venv /opt/vlmguard \
  && /opt/vlmguard/bin/pip install --no-cache-dir '.[serve,otel]' langchain-openai

FROM python:3.12-slim
RUN useradd --system --uid 10001 --create-home --home-dir /data vlmguard
COPY --from=build /opt/vlmguard /opt/vlmguard
ENV PATH=/opt/vlmguard/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /data
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=3)"]
ENTRYPOINT ["vlmguard", "serve"]
CMD ["--config", "/etc/vlmguard/guard.yaml"]
