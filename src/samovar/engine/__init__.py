"""Many sequences in one context: queue, schedule, step, account."""
