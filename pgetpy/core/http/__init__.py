"""What is decided about requests and answers: URLs, ranges, the plan, the pace, retries, trust.

What sends a request is in engine/. `Sink` is here because a plan has to know what takes its bytes.
"""
