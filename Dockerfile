# Airflow 3.3.2 with mongo-ops: exactly the packages of requirements.txt, every one checked against its hash.
FROM apache/airflow:3.3.2-python3.11

# An environment of our own rather than the base image's: that one carries providers we neither want nor test, and
# two of our pins (Celery, boto3) differ from its. What runs here is what the lock says and nothing else.
ENV VIRTUAL_ENV=/home/airflow/mongo-ops
ENV PATH=${VIRTUAL_ENV}/bin:${PATH} \
    PIP_USER=0 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

COPY --chown=airflow:0 requirements.txt /opt/airflow/requirements.txt
# --no-deps: the lock is complete (pip check below proves it), and pip would refuse `celery[redis]` as not pinned.
RUN python -m venv "${VIRTUAL_ENV}" \
    && "${VIRTUAL_ENV}/bin/pip" install --require-hashes --no-deps -r /opt/airflow/requirements.txt

COPY --chown=airflow:0 pyproject.toml README.md /opt/airflow/
COPY --chown=airflow:0 plugins/ /opt/airflow/plugins/
# --no-build-isolation: hatchling is in the lock, so building reaches for no network. The installed package is the only
# copy: a second one under plugins/ could be imported by mistake.
RUN pip install --no-index --no-deps --no-build-isolation /opt/airflow \
    && rm -rf /opt/airflow/plugins/mongo_ops \
    && pip check

COPY --chown=airflow:0 dags/ /opt/airflow/dags/
COPY --chown=airflow:0 include/ /opt/airflow/include/
COPY --chown=airflow:0 docker/airflow/ docker/storage/ /opt/airflow/docker/
ENV MONGO_OPS_INCLUDE=/opt/airflow/include

# The base image's user airflow (50000:0) and its entrypoint stay.
USER 50000:0
