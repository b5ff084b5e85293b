"""Transports: each makes a request, has its head judged, and moves the body to its sink.

    local     file: and data: URLs, as if a server had answered
    direct    the usual way: a small HTTP/1 client of our own on pooled sockets
    aio       aiohttp, for what direct raises `UnsupportedResponseError` for

An exchange passes through the same states in all of them:

    connect --> ask --> head --> judge --> body --> landed      an error, or a cancellation, at any
                                   |                            point: nothing is written any more
                                   +- raises: nothing is kept

Where the object is probably small, `direct` takes the first three of these steps for a
`SmallRequest` as well; an exchange takes over what turns out not to be small (`Exchange.begun`).

How `direct` moves a body depends on what is between the socket and the sink:

    body up to 256 KiB              received on the event loop: a thread would cost more than it
    larger, plain, sink on disk     socket =splice=> pipe =splice=> file: Python sees no byte
    larger, TLS or no file          socket -> TLS in memory -> buffer -> sink, in a thread
    chunked, coded, no length       as above, through `BodyDecoder`
    no thread is free               the same on the event loop, a block at a time (`on_loop`)

A connection belongs to the event loop until a head has been read. For a body that a thread moves,
the socket is made blocking and handed over; nothing on the loop touches it until the thread ends.
To stop the thread the loop sets `cancelled` and shuts the socket down, which wakes it, and then
waits for it: that is what makes "nothing is written afterwards" true.

A connection goes back to the pool only if the end of its answer is certain: the whole body was
read, nothing came after it, and the head allows it. A request whose `stop` was lowered leaves part
of its body unread, so its connection is closed. When one is taken out again, it must be silent: a
readable socket means that the server has closed it, or has sent something that no request asked
for. A server may still close it at the moment of the next request. If it does so before the first
byte of an answer, the request is made again on a new connection, once; that is safe for a GET.

The pool is keyed by all that a connection depends on: scheme, host and port, proxy, TLS context,
and whether the request is trusted. Otherwise a connection that the operator's own URL opened to an
internal address could serve a stranger's URL with the same name.
"""
