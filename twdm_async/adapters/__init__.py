"""Adapters of :class:`twdm_async.Desk` to agents' frameworks. Each is a module of its own, and needs the extra that is
named as the framework.
"""
