"""Direct Messages under custom profiles, from many agents at once, within the quotas of the Twitter/X API."""

from twdm_async.agent import Agent
from twdm_async.client import Client
from twdm_async.credentials import Credentials
from twdm_async.errors import (
    BadRequest,
    ClientClosed,
    ConnectFailed,
    DeliveryUnknown,
    Forbidden,
    InvalidInput,
    LooksAutomated,
    MalformedResponse,
    NotAllowlisted,
    NotFound,
    OutboxFailed,
    QuotaQueueFull,
    QuotaStoreFailed,
    QuotaWaitTooLong,
    RateLimited,
    RecipientUnreachable,
    ResponseError,
    ServerError,
    TwdmError,
    Unauthorized,
    WrongEventLoop,
)
from twdm_async.models import CallToAction, CustomProfile, DirectMessage, Media, QuickReply, User, WelcomeMessage
from twdm_async.observers import AttemptReport
from twdm_async.quota.lanes import Lane
from twdm_async.quota.limiter import QuotaState
from twdm_async.quota.spec import Pace, Priority, Quota, QuotaTable, Scope
from twdm_async.quota.store import MemoryQuotaStore, QuotaStore, RedisQuotaStore, SQLiteQuotaStore
from twdm_async.resources.reconcile import Reconciled

__all__ = [
    "Agent",
    "AttemptReport",
    "BadRequest",
    "CallToAction",
    "Client",
    "ClientClosed",
    "ConnectFailed",
    "Credentials",
    "CustomProfile",
    "DeliveryUnknown",
    "DirectMessage",
    "Forbidden",
    "InvalidInput",
    "Lane",
    "LooksAutomated",
    "MalformedResponse",
    "Media",
    "MemoryQuotaStore",
    "NotAllowlisted",
    "NotFound",
    "OutboxFailed",
    "Pace",
    "Priority",
    "QuickReply",
    "Quota",
    "QuotaQueueFull",
    "QuotaState",
    "QuotaStore",
    "QuotaStoreFailed",
    "QuotaTable",
    "QuotaWaitTooLong",
    "RateLimited",
    "RecipientUnreachable",
    "Reconciled",
    "RedisQuotaStore",
    "ResponseError",
    "SQLiteQuotaStore",
    "Scope",
    "ServerError",
    "TwdmError",
    "Unauthorized",
    "User",
    "WelcomeMessage",
    "WrongEventLoop",
]
