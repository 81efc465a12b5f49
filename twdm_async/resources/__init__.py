"""The API's calls as methods, one class for each resource."""
