"""What answers HTTP: the page, the API and the endpoint for assistants, without any model."""
