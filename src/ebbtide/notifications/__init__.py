"""Topics, their subscriptions, and the messages owed to each: Amazon SNS, and SQS to receive them.

A message's way: `topics.publish` writes it and one delivery for each subscription that wants it, in its
caller's transaction (the outbox). `deliveries` then takes what is due, signs it, hands it over by HTTP, mail
or into a queue's table, and ends the delivery, or puts it off by the subscription's retry policy. What ended
stays as a log (`history`) until its retention is over.
"""
