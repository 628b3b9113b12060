"""A shop and a hotel on FastAPI and pgevents."""
