"""Erasure (Art. 17 GDPR) and what belongs to it: data map, requests, plans, verification, certificates, consent, retention, access.

Reads its duties from ``include/data_map.yaml`` and never from the database: what the map does not name is a finding, not a guess.
"""
