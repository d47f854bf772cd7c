"""The HTTP server: sockets, routes, streams, keys and limits, over a runtime."""
