"""MongoDB foundations: connection, lease with a fencing epoch, exactly-once batches, throttle, BSON values.

Features stand on these and never open a client, count an epoch or write a checkpoint of their own.
"""
