"""What instances cost, for whom, and what the same work must have cost at least.

An instance's states say when it ran, the claims of invocations for whom (`attribution`); its type has a
price. `report` adds that up by day, endpoint, account, tag or invocation, beside what instances that are
always on would have cost, and the least that any schedule could have used (`minimum`). Costs are read from
the records of instances and invocations whenever they are asked for, and reach back as far as those are kept.
"""
