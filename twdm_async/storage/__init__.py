"""Storage that lasts: tables in a SQLite file on this machine, or in a PostgreSQL database that many hosts share."""
