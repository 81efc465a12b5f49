"""Storage in a PostgreSQL database, which processes on many hosts share."""
