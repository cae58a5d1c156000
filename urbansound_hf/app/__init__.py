"""The browser page that classifies sounds."""
