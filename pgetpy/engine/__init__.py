"""How bytes come: requests, connections, retries, and the transfers that are made of them.

What sends a request, moves a body or watches over either belongs here. Which bytes to ask for and
which answer to believe is decided in core/http; what a reference means is known to sources/, and
where bytes end up to destinations/.

    Engine            many jobs; owns hosts, connections and limits
      Transfer        one job: mirrors, starting over, digest, publishing
        Attempt       one try by one route: requests go out until every byte has landed
          Exchange    one request under way, carried by a transport in a task of its own
      SmallTransfer   a Transfer without Attempt, as far as one small answer brings everything
      Carrier         small files without Transfers, one after the other over one connection

An attempt is a loop. It turns when an exchange ends, when a first answer is believed, and every
25 ms:

    launch what is due --> look after what is under way --> wait --> collect what has ended
          ^                                                                |
          +----------------------------------------------------------------+

It goes through three phases. As long as no answer is believed there is one request, the probe, and
a second one if it is late; redirects are followed in this phase. Then the plan gives out ranges, as
many at a time as the host's pace allows. Once every byte has landed, exchanges that are left are
cancelled and waited for.

A failed exchange has the first of these consequences that applies (`Attempt._handle_failure`):

    it was a redirect                             ask where it leads
    a different request gets a better answer      ask without a range, or newly signed
    it is not one of our errors                   raise: a sink failed, or there is a bug
    the server has no ranges                      what came is lost: everything again
    the signed target has expired                 follow the redirects again from the original URL
    only this connection was one too many         lower the pace; the others go on
    a plainer manner of asking is left            use it (`core/http/manner`)
    there are tries left                          wait (`core/http/retry`), then ask again
    otherwise                                     raise

One outage fails every exchange under way at once. It must count as one failure, halve the pace
once, and change the manner once. So each exchange carries when it was made (`RateMeter.born`) and
in which manner (`Exchange.generation`): a failure of one that was made before the last failure was
known is an echo, and one made before the manner changed says nothing about the new manner.

The same holds for redirects and expired signatures: several answers may report one change. `Route`
compares the URL that an answer came from with the target in use, and ignores the late ones. A
target that refuses right after it was renewed is not renewed again: then the refusal is meant.

All of this runs on the event loop. Only transports use threads; what they call from there, the
judging of a head above all, holds the lock of `AnswerGate`.
"""
