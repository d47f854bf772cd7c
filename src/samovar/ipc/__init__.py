"""What crosses the wall between the process that serves and those that compute, and how."""
