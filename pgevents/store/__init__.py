"""Everything that speaks SQL: session, tables, installation, functions, reads and appends."""
