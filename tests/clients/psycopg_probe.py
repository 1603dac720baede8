"""psycopg 3 against the server; the probes are in psycopg_values, psycopg_statements and psycopg_streams."""

import psycopg_statements  # noqa: F401
import psycopg_streams  # noqa: F401
import psycopg_values  # noqa: F401
from probes import main

if __name__ == "__main__":
    main(__doc__)
