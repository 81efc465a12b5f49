"""Admission: what the quotas are, who goes next, and why they hold (see :mod:`twdm_async.quota.ledger`)."""
