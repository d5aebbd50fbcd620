"""The smart meter over Route B: codecs (`echonet`, `skstack`, `meter`), `session`, `link` and `driver`."""
