"""Events and views to JSON and back."""
