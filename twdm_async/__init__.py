"""Direct Messages under custom profiles, from many agents at once, within the quotas of the Twitter/X API."""

import os
from typing import TYPE_CHECKING

from twdm_async._lazy import lazily

__version__ = "0.1.0"

if TYPE_CHECKING:
    from twdm_async._clock import Clock, LoopClock
    from twdm_async.agent import Agent
    from twdm_async.client import Client, ClientOptions
    from twdm_async.credentials import Credentials
    from twdm_async.desk import Desk, Receipt
    from twdm_async.errors import (
        BadRequest,
        ClientClosed,
        ConnectFailed,
        DatabaseFailed,
        DeliveryUnknown,
        Forbidden,
        InboxFailed,
        IncompatibleAiohttp,
        InternalError,
        InvalidInput,
        LooksAutomated,
        MalformedResponse,
        MediaFailed,
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
    from twdm_async.models import (
        CallToAction,
        CustomProfile,
        LocationRequest,
        Media,
        MessageMedia,
        Person,
        Processing,
        QuickReply,
        QuickReplyResponse,
        RateLimitStatus,
        RateLimitWindow,
        SharedCoordinate,
        SharedPlace,
        TextInput,
        User,
        WelcomeMessage,
        WelcomeMessageRule,
    )
    from twdm_async.models.direct_messages import DirectMessage, InitiatedVia, SourceApp
    from twdm_async.observers import AttemptReport
    from twdm_async.outbox import Outbox
    from twdm_async.quota.lanes import Lane
    from twdm_async.quota.limiter import QuotaState
    from twdm_async.quota.spec import Pace, Priority, Quota, QuotaTable, ReplyCredit, Scope
    from twdm_async.quota.store import PostgresQuotaStore, RedisQuotaStore, SQLiteQuotaStore
    from twdm_async.quota.store.contract import QuotaStore
    from twdm_async.quota.store.memory import MemoryQuotaStore
    from twdm_async.resources.access import AccessFinding
    from twdm_async.resources.inbox import Inbox, SetAside
    from twdm_async.resources.listing import Listing, Page
    from twdm_async.resources.media import UploadProgress
    from twdm_async.resources.reconcile import Reconciled
    from twdm_async.resources.send_many import Draft, SendOutcome
    from twdm_async.sandbox import Sandbox
    from twdm_async.storage.postgres.database import PostgresDatabase
    from twdm_async.webhooks import Webhook
else:
    __getattr__, __dir__ = lazily(__name__, {
        "_clock": ["Clock", "LoopClock"],
        "agent": ["Agent"],
        "client": ["Client", "ClientOptions"],
        "credentials": ["Credentials"],
        "desk": ["Desk", "Receipt"],
        "errors": [
            "BadRequest", "ClientClosed", "ConnectFailed", "DatabaseFailed", "DeliveryUnknown", "Forbidden",
            "InboxFailed", "IncompatibleAiohttp", "InternalError", "InvalidInput", "LooksAutomated",
            "MalformedResponse", "MediaFailed", "NotAllowlisted", "NotFound", "OutboxFailed", "QuotaQueueFull",
            "QuotaStoreFailed", "QuotaWaitTooLong", "RateLimited", "RecipientUnreachable", "ResponseError",
            "ServerError", "TwdmError", "Unauthorized", "WrongEventLoop",
        ],
        "models": [
            "CallToAction", "CustomProfile", "LocationRequest", "Media", "MessageMedia", "Person", "Processing",
            "QuickReply", "QuickReplyResponse", "RateLimitStatus", "RateLimitWindow", "SharedCoordinate", "SharedPlace",
            "TextInput", "User", "WelcomeMessage", "WelcomeMessageRule",
        ],
        "models.direct_messages": ["DirectMessage", "InitiatedVia", "SourceApp"],
        "observers": ["AttemptReport"],
        "quota.lanes": ["Lane"],
        "quota.limiter": ["QuotaState"],
        "quota.spec": ["Pace", "Priority", "Quota", "QuotaTable", "ReplyCredit", "Scope"],
        "quota.store": ["PostgresQuotaStore", "RedisQuotaStore", "SQLiteQuotaStore"],
        "quota.store.contract": ["QuotaStore"],
        "quota.store.memory": ["MemoryQuotaStore"],
        "resources.access": ["AccessFinding"],
        "outbox": ["Outbox"],
        "resources.inbox": ["Inbox", "SetAside"],
        "resources.listing": ["Listing", "Page"],
        "resources.media": ["UploadProgress"],
        "resources.reconcile": ["Reconciled"],
        "resources.send_many": ["Draft", "SendOutcome"],
        "sandbox": ["Sandbox"],
        "storage.postgres.database": ["PostgresDatabase"],
        "webhooks": ["Webhook"],
    })  # fmt: skip

__all__ = [
    "AccessFinding",
    "Agent",
    "AttemptReport",
    "BadRequest",
    "CallToAction",
    "Client",
    "ClientClosed",
    "ClientOptions",
    "Clock",
    "ConnectFailed",
    "Credentials",
    "CustomProfile",
    "DatabaseFailed",
    "DeliveryUnknown",
    "Desk",
    "DirectMessage",
    "Draft",
    "Forbidden",
    "Inbox",
    "InboxFailed",
    "IncompatibleAiohttp",
    "InitiatedVia",
    "InternalError",
    "InvalidInput",
    "Lane",
    "Listing",
    "LocationRequest",
    "LooksAutomated",
    "LoopClock",
    "MalformedResponse",
    "Media",
    "MediaFailed",
    "MemoryQuotaStore",
    "MessageMedia",
    "NotAllowlisted",
    "NotFound",
    "Outbox",
    "OutboxFailed",
    "Pace",
    "Page",
    "Person",
    "PostgresDatabase",
    "PostgresQuotaStore",
    "Priority",
    "Processing",
    "QuickReply",
    "QuickReplyResponse",
    "Quota",
    "QuotaQueueFull",
    "QuotaState",
    "QuotaStore",
    "QuotaStoreFailed",
    "QuotaTable",
    "QuotaWaitTooLong",
    "RateLimitStatus",
    "RateLimitWindow",
    "RateLimited",
    "Receipt",
    "RecipientUnreachable",
    "Reconciled",
    "RedisQuotaStore",
    "ReplyCredit",
    "ResponseError",
    "SQLiteQuotaStore",
    "Sandbox",
    "Scope",
    "SendOutcome",
    "ServerError",
    "SetAside",
    "SharedCoordinate",
    "SharedPlace",
    "SourceApp",
    "TextInput",
    "TwdmError",
    "Unauthorized",
    "UploadProgress",
    "User",
    "Webhook",
    "WelcomeMessage",
    "WelcomeMessageRule",
    "WrongEventLoop",
]

if os.environ.get("TWDM_LOG"):
    from twdm_async import _log

    _log.show_log(os.environ["TWDM_LOG"])
