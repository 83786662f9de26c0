"""The contracts that every part of ECOmpile shares.

API types of the custom resources, routing tables, control stream messages, job reports, bundle metadata,
audit records and error codes. Nothing here talks to a cluster, reads a clock or imports another package of ours.
"""
