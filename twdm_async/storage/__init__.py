"""Where what must be remembered is kept: in a SQLite file of this machine, or in a PostgreSQL database of many."""
