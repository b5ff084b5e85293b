"""What takes the bytes of one object: implementations of `core.http.sink.Sink`."""
