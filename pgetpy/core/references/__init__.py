"""What is asked for, and whether it may be: references, patterns, jobs, checksums, the policy.

What a service's own references mean is in sources/, unless others need it too.
"""
